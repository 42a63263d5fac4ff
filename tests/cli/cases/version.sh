"$OPTIMUM" version && "$OPTIMUM" --version
