# every one of them is exit code 2, one line, and nothing on stdout
try() {
    "$OPTIMUM" "$@" >out
    code=$?
    [ $code -eq 2 ] || echo "optimum $*: exit code $code"
    [ -s out ] && cat out
}
try profil
try frobnicate
try help profil
try -x
try profile
try profile m
try profile m --calib
try profile m --calib a
try profile m --calib a -o x --windows 0
try profile m --clib a -o x
try profile m --calib a -o x --frobnicate
try profile m --calib a -o x --method guess
try profile m --calib a -o x --seed -1
try allocate
try allocate p
try allocate p q --bpw 4
try allocate p --bpw nan
try allocate p --memory 24G
try allocate p --size 5MB --bpw 3
try allocate p --bpw 4.5 --ctx 4
try allocate p --size 5MB --kv q8_0
try allocate p --size 5MB --reserve 1GB
try allocate p --size 5MB --min-tok-s 0
try allocate p --size 5MB --bandwidth fast
try allocate p --size 5MB --method guess
try run m -o d
try run m --size 5MB
try run m --size -5 -o d
try quantize m -a a
try quantize m -a a -o x --stats s --imatrix i
try export a -o x --to foo
try eval -r x --text y
try eval m -r x --text y --score some
try eval m -r x --text y --with llama
try eval m -r x --text y --with mlx_lm
try report -p p -o x
try completion tcsh
try completion
exit 0
