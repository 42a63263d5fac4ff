# the three ways to the overview say the same
"$OPTIMUM" help >a && "$OPTIMUM" --help >b && "$OPTIMUM" -h >c && cmp a b && cmp a c && cat a
