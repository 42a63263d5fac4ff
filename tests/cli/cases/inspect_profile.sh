# a profile is told from a model by its content, whatever it is called; a damaged one gives one line
printf ' \n{"schema":"optimum.profile/1","model":{"path":"m.gguf"' >cut.gguf
printf '{"schema":"optimum.eval/1"}' >eval.json
for arguments in "cut.gguf" "eval.json --json" "cut.gguf --size 1GB"; do
    "$OPTIMUM" inspect $arguments
    echo "exit code $?"
done
