# 'help X', 'X --help' and 'X -h' say the same, in 80 columns, with usage and examples
for command in run inspect profile allocate quantize export eval report; do
    "$OPTIMUM" help $command >a || exit 1
    "$OPTIMUM" $command --help >b || exit 1
    "$OPTIMUM" $command -h --nonsense >c || exit 1
    cmp a b && cmp a c || exit 1
    grep -q "^usage: optimum $command" a || echo "$command: no usage"
    grep -q "^  optimum $command " a || echo "$command: no example"
    awk -v c=$command 'length($0) > 80 { print c ": long line: " $0 }' a
done
