/* cli/opt: every kind of option, what is refused, and what the help says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "cli/opt.h"

typedef struct args {
    om_common common;
    bool flag;
    const char *str, *choice, *first, *second;
    int n;
    uint64_t u64;
    int64_t size;
    double x, rate;
    om_opt_list list;
} args;

static const om_opt options[] = {
    { .name = "FIRST",
      .kind = OM_OPT_POSITIONAL,
      .required = true,
      .offset = offsetof(args, first),
      .help = "one" },
    { .name = "SECOND",
      .kind = OM_OPT_POSITIONAL,
      .offset = offsetof(args, second),
      .help = "two" },
    { .name = "flag",
      .letter = 'f',
      .kind = OM_OPT_FLAG,
      .offset = offsetof(args, flag),
      .help = "a flag" },
    { .name = "out",
      .letter = 'o',
      .kind = OM_OPT_STR,
      .offset = offsetof(args, str),
      .metavar = "FILE",
      .help = "an output" },
    { .name = "mode",
      .kind = OM_OPT_STR,
      .offset = offsetof(args, choice),
      .metavar = "M",
      .choices = "one|two",
      .help = "h" },
    { .name = "count",
      .letter = 'n',
      .kind = OM_OPT_INT,
      .offset = offsetof(args, n),
      .metavar = "N",
      .min = 1,
      .max = 9,
      .help = "h" },
    { .name = "seed",
      .kind = OM_OPT_U64,
      .offset = offsetof(args, u64),
      .metavar = "S",
      .help = "h" },
    { .name = "size",
      .kind = OM_OPT_SIZE,
      .offset = offsetof(args, size),
      .metavar = "SIZE",
      .help = "h" },
    { .name = "bpw", .kind = OM_OPT_F64, .offset = offsetof(args, x), .metavar = "X", .help = "h" },
    { .name = "rate",
      .kind = OM_OPT_RATE,
      .offset = offsetof(args, rate),
      .metavar = "SIZE/s",
      .help = "h" },
    { .name = "calib",
      .kind = OM_OPT_LIST,
      .offset = offsetof(args, list),
      .metavar = "FILE",
      .help = "a list" },
};

static const om_command command = {
    .name = "test",
    .summary = "a summary",
    .details = "Words.",
    .examples = "  optimum test x\n",
    .options = options,
    .n_options = (int) (sizeof options / sizeof options[0]),
    .args_size = sizeof(args),
};

enum { MAX_ARGS = 32 };

/* Splits `line` at spaces; '_' stands for an empty word. The copy lives until the next call. */
static om_status parse(args *a, const char *line, om_error *err) {
    static char copy[512];
    char *argv[MAX_ARGS + 1] = { 0 };
    int argc = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *s = copy; *s != '\0' && argc < MAX_ARGS;) {
        argv[argc++] = *s == '_' ? s + 1 : s;
        s += strcspn(s, " ");
        if (*s == ' ') {
            *s++ = '\0';
        }
    }
    *a = (args){ 0 };
    *err = (om_error){ 0 };
    return om_opt_parse(a, &command, argc, argv, err);
}

static void test_all_kinds(void **state) {
    (void) state;
    args a;
    om_error err;
    assert_int_equal(parse(&a,
                           "-f --out=x=y --mode two p1 -n3 --seed 18446744073709551615 --size "
                           "1.5KB --bpw 4.5 --calib a --json --threads 7 p2 --calib=b",
                           &err),
                     OM_OK);
    assert_true(a.flag && a.common.json && !a.common.quiet);
    assert_string_equal(a.str, "x=y");
    assert_string_equal(a.choice, "two");
    assert_string_equal(a.first, "p1");
    assert_string_equal(a.second, "p2");
    assert_int_equal(a.n, 3);
    assert_true(a.u64 == UINT64_MAX);
    assert_int_equal(a.size, 1500);
    assert_true(a.x == 4.5);
    assert_int_equal(a.common.n_threads, 7);
    assert_int_equal(a.list.n, 2);
    assert_string_equal(a.list.items[0], "a");
    assert_string_equal(a.list.items[1], "b");
    om_opt_release(&a, &command);
    assert_null(a.list.items);
}

static void test_rates(void **state) {
    (void) state;
    static const char *const bad[] = {
        "x", "0", "-1GB/s", "1GB/h", "/s", "1e99", "GB/s", "1GB/s/s"
    };
    args a;
    om_error err;
    char line[128];
    assert_int_equal(parse(&a, "p --rate 1.5GB/s", &err), OM_OK);
    assert_true(a.rate == 1.5e9);
    assert_int_equal(parse(&a, "p --rate=2GiB", &err), OM_OK);
    assert_true(a.rate == 2147483648.0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        (void) snprintf(line, sizeof line, "p --rate=%s", bad[i]);
        assert_int_equal(parse(&a, line, &err), OM_E_ARG);
        assert_non_null(strstr(err.text, "--rate"));
    }
    (void) snprintf(line, sizeof line, "p --rate=%090d", 1);
    assert_int_equal(parse(&a, line, &err), OM_E_ARG);
}

static void test_forms(void **state) {
    (void) state;
    args a;
    om_error err;
    assert_int_equal(parse(&a, "p -fq -o a -ob -fno 3", &err), OM_E_ARG); /* -n takes "o" */
    assert_non_null(strstr(err.text, "'o'"));
    assert_int_equal(parse(&a, "p -fq -o a -ob", &err), OM_OK);
    assert_true(a.flag && a.common.quiet);
    assert_string_equal(a.str, "b"); /* the last one */
    assert_int_equal(parse(&a, "--flag -- -p --size", &err), OM_OK);
    assert_string_equal(a.first, "-p");
    assert_string_equal(a.second, "--size");
    assert_int_equal(parse(&a, "- -o -", &err), OM_OK); /* a dash alone is a word */
    assert_string_equal(a.first, "-");
    assert_int_equal(parse(&a, "p -o -5", &err), OM_OK);
    assert_string_equal(a.str, "-5");
}

static void test_surplus_words_belong_to_the_list_before(void **state) {
    (void) state;
    args a;
    om_error err;
    assert_int_equal(parse(&a, "p q --calib a b c -o x", &err), OM_OK);
    assert_int_equal(a.list.n, 3);
    assert_string_equal(a.list.items[2], "c");
    om_opt_release(&a, &command);
    assert_int_equal(parse(&a, "p q --calib a -o x b", &err), OM_E_ARG); /* -o came between */
    assert_non_null(strstr(err.text, "unexpected argument 'b'"));
    om_opt_release(&a, &command);
}

static void test_help_ends_checking(void **state) {
    (void) state;
    args a;
    om_error err;
    assert_int_equal(parse(&a, "--help --nonsense", &err), OM_OK);
    assert_true(a.common.help);
}

static void test_usage_errors(void **state) {
    (void) state;
    static const char *const cases[][2] = {
        { "", "FIRST is missing" },
        { "p q r", "unexpected argument 'r'" },
        { "p --flag=1", "--flag takes no value" },
        { "p --out", "--out needs a value: --out FILE" },
        { "p --out --flag", "--out needs a value" },
        { "p --mode", "--mode needs a value: --mode one|two" },
        { "p -o", "--out needs a value" },
        { "p --out=", "--out is empty" },
        { "_", "FIRST is empty" },
        { "p --mode three", "--mode: expected one of one|two, found 'three'" },
        { "p --mode on", "found 'on'" },
        { "p --mode one|two", "found 'one|two'" },
        { "p --mode=", "expected one of" },
        { "p --count 0", "--count: expected a whole number from 1 to 9, found '0'" },
        { "p --count 10", "found '10'" },
        { "p --count 3x", "found '3x'" },
        { "p --count 99999999999999999999", "from 1 to 9" },
        { "p --count=", "empty" },
        { "p --seed -1", "--seed: expected a whole number from 0" },
        { "p --seed 18446744073709551616", "2^64-1" },
        { "p --seed x", "found 'x'" },
        { "p --size 5G", "'5G' is not a size" },
        { "p --size 0", "above 0" },
        { "p --bpw inf", "--bpw: expected a number above 0, found 'inf'" },
        { "p --bpw 0x1p3", "found '0x1p3'" },
        { "p --bpw 1e999", "above 0" },
        { "p --bpw -1", "above 0" },
        { "p --bpw 4.5x", "above 0" },
        { "p --clib x", "unknown option --clib; did you mean --calib?" },
        { "p --cailb=x", "unknown option --cailb; did you mean --calib?" },
        { "p --thread 3", "did you mean --threads?" },
        { "p --zzzzzz", "unknown option --zzzzzz; 'optimum test --help' lists the options" },
        { "p --FIRST x", "unknown option" }, /* a positional is no option */
        { "p -z", "unknown option -z" },
        { "p -fz", "unknown option -fz" },
        { "p --out=a --", "" },
        { "p --=x", "unknown option" },
        { "p --threads 0", "from 1 to 1024" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        args a;
        om_error err;
        const om_status status = parse(&a, cases[i][0], &err);
        const om_status want = cases[i][1][0] == '\0' ? OM_OK : OM_E_ARG;
        if (status != want || strstr(err.text, cases[i][1]) == NULL) {
            fail_msg("'%s': status %d, '%s'", cases[i][0], (int) status, err.text);
        }
        om_opt_release(&a, &command);
    }
}

static void test_very_long_words(void **state) {
    (void) state;
    char word[3000] = "--";
    memset(word + 2, 'a', sizeof word - 3);
    word[sizeof word - 1] = '\0';
    char *argv[] = { word, NULL };
    args a = { 0 };
    om_error err = { 0 };
    assert_int_equal(om_opt_parse(&a, &command, 1, argv, &err), OM_E_ARG);
    assert_non_null(strstr(err.text, "--help"));
}

static void test_nearest(void **state) {
    (void) state;
    static const char *const words[] = { "profile", "report", "run", "eval" };
    assert_string_equal(om_opt_nearest("profil", words, 4), "profile");
    assert_string_equal(om_opt_nearest("porfile", words, 4), "profile"); /* a swap is one edit */
    assert_string_equal(om_opt_nearest("rnu", words, 4), "run");
    assert_string_equal(om_opt_nearest("eval", words, 4), "eval");
    assert_null(om_opt_nearest("quantize", words, 4));
    assert_null(om_opt_nearest("", words, 4));
    assert_null(om_opt_nearest("xy", words, 4));
}

static void test_short_memory(void **state) {
    (void) state;
    args a;
    om_error err;
    om_mem_fail_at(2);
    assert_int_equal(parse(&a, "p --calib a --calib b", &err), OM_E_NOMEM);
    om_mem_fail_at(0);
    assert_int_equal(a.list.n, 1);
    om_opt_release(&a, &command);
}

static void test_help_text(void **state) {
    (void) state;
    om_buf b = { 0 };
    om_opt_help(&b, &command);
    assert_non_null(b.data);
    static const char *const parts[] = {
        "optimum test: a summary\n",
        "usage: optimum test FIRST [SECOND] [options]\n",
        "\nWords.\n",
        "\narguments:\n  FIRST                    one\n",
        "  -f, --flag               a flag\n",
        "      --calib FILE...      a list\n",
        "  -h, --help ",
        "\nexamples:\n  optimum test x\n",
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        if (strstr(b.data, parts[i]) == NULL) {
            fail_msg("'%s' is not in:\n%s", parts[i], b.data);
        }
    }
    for (const char *line = b.data; *line != '\0';) {
        const size_t len = strcspn(line, "\n");
        assert_true(len <= 80);
        line += len + (line[len] == '\n');
    }
    om_buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_kinds),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_surplus_words_belong_to_the_list_before),
        cmocka_unit_test(test_help_ends_checking),
        cmocka_unit_test(test_usage_errors),
        cmocka_unit_test(test_very_long_words),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_short_memory),
        cmocka_unit_test(test_help_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
