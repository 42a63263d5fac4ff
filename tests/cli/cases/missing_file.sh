# a file that is not there: named, exit code 1, nothing on stdout even with --json
"$OPTIMUM" inspect --json no-such-model.gguf
