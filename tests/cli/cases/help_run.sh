"$OPTIMUM" run --help
