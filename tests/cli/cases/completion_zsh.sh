"$OPTIMUM" completion zsh >script || exit 1
head -1 script
if command -v zsh >/dev/null; then zsh -n script; fi
for command in run inspect profile allocate quantize export eval report; do
    grep -q "^    $command)" script || echo "$command is missing"
done
