"$OPTIMUM" completion fish >script || exit 1
if command -v fish >/dev/null; then fish -n script; fi
grep -- '-l kv ' script
