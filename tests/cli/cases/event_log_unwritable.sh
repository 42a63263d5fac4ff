"$OPTIMUM" inspect m.gguf --log-json no/such/folder/events
