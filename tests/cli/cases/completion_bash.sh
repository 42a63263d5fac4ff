# the script loads, and completes commands, options and values
command -v bash >/dev/null || exit 77
"$OPTIMUM" completion bash >script || exit 1
cat >try.bash <<'END'
source ./script
try() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _optimum
    echo "$*: ${COMPREPLY[*]}"
}
try optimum pro
try optimum help al
try optimum run --me
try optimum profile m --method ''
try optimum completion ''
try optimum allocate p --bpw ''
END
bash try.bash
