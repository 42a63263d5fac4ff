: >m.gguf
"$OPTIMUM" run m.gguf --size 20MB -o out --to mlx
