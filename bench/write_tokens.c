/* The windows of tokens that `profile` takes from a text, for prediction_truth.py:
 *
 *   write_tokens MODEL.gguf TEXT WINDOWS WINDOW_TOKENS OUT.bin        int32 [WINDOWS,
 * WINDOW_TOKENS]
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "profile/windows.h"

int main(int argc, char **argv) {
    om_env env = { 0 };
    om_error err = { 0 };
    om_windows w = { 0 };
    if (argc != 6) {
        (void) fprintf(stderr,
                       "usage: write_tokens MODEL.gguf TEXT WINDOWS WINDOW_TOKENS OUT.bin\n");
        return 2;
    }
    const om_profile_options o = { .model = argv[1],
                                   .calib = (const char *const *) &argv[2],
                                   .n_calib = 1,
                                   .n_windows = (int) strtol(argv[3], NULL, 10),
                                   .window_tokens = (int) strtol(argv[4], NULL, 10) };
    int n_wanted;
    om_status status = om_profile_windows_read(&w, &n_wanted, &o, &env, &err);
    if (status == OM_OK) {
        status = om_file_write(argv[5], w.tokens,
                               (size_t) w.n_windows * (size_t) w.n_tokens * sizeof *w.tokens, &err);
    }
    if (status != OM_OK) {
        (void) fprintf(stderr, "error: %s\n", err.text);
    } else {
        printf("%d windows of %d tokens\n", w.n_windows, w.n_tokens);
    }
    om_windows_release(&w);
    return status == OM_OK ? 0 : 1;
}
