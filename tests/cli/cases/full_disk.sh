[ -c /dev/full ] || exit 77
"$OPTIMUM" version >/dev/full || echo "exit code $?"
