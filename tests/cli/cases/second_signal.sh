# a verb that waits for its input (a pipe nobody writes to) is ended by the second signal
mkfifo pipe
"$OPTIMUM" allocate pipe --bpw 4 --log-json events &
pid=$!
tries=0
while [ ! -s events ] && [ $tries -lt 100 ]; do # the handlers are there before the events
    sleep 0.1
    tries=$((tries + 1))
done
kill -TERM $pid
sleep 0.3
kill -0 $pid || echo "the first signal killed it"
kill -TERM $pid
wait $pid
