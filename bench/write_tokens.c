/* The windows of tokens that `profile` takes from a text, for prediction_truth.py:
 *
 *   write_tokens MODEL.gguf TEXT WINDOWS WINDOW_TOKENS OUT.bin        int32 [WINDOWS, WINDOW_TOKENS]
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "model/tokens.h"

int main(int argc, char **argv) {
    om_env env = { 0 };
    om_error err = { 0 };
    om_windows w = { 0 };
    if (argc != 6) {
        (void) fprintf(stderr, "usage: write_tokens MODEL.gguf TEXT WINDOWS WINDOW_TOKENS OUT.bin\n");
        return 2;
    }
    const char *text = argv[2];
    const int n_windows = (int) strtol(argv[3], NULL, 10), n_tokens = (int) strtol(argv[4], NULL, 10);
    om_status status = om_windows_read(&w, argv[1], &text, 1, n_tokens, 0, &env, &err);
    if (status == OM_OK) {
        om_windows_spread(&w, n_windows);
        status = om_file_write(
            argv[5], w.tokens, (size_t) w.n_windows * (size_t) w.n_tokens * sizeof *w.tokens, &err);
    }
    if (status != OM_OK) {
        (void) fprintf(stderr, "error: %s\n", err.text);
    } else {
        printf("%d windows of %d tokens\n", w.n_windows, w.n_tokens);
    }
    om_windows_release(&w);
    return status == OM_OK ? 0 : 1;
}
