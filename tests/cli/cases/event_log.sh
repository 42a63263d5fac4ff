"$OPTIMUM" inspect no-such-model.gguf --log-json events --quiet
code=$?
cat events
exit $code
