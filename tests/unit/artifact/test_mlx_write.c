/* The verb quantize to MLX on tiny directories: what was written is read back through the reader of
 * directories, its nats against a plain double loop in the GGUF's arrangement; and interruptions.
 * That real mlx-lm agrees: tests/oracle/mlx_load.sh. */
#include "mlx_fixture.h"

/* ---- what is written ---- */

/* Largest |difference| relative to the largest |weight| that a type may have. */
static double tolerance(const om_format *to) {
    return to->mlx == OM_MLX_NONE || to->mlx == OM_MLX_AFFINE
               ? (to->bits == 0 ? 0.004 : 1.1 / ((1 << to->bits) - 1) + 0.01)
               : 0.3;
}

/* plain: no weight may be further away than half a step or so; else the row as a whole, since a
 * search gives up weights that do not matter. */
static void check_tensor(const om_hf *source, const om_hf *written, const om_hf_tensor *t,
                         bool plain) {
    om_error err = { 0 };
    const om_hf_tensor *w = om_hf_find(written, t->name);
    assert_non_null(w);
    assert_string_equal(w->path, t->path);
    float *a = om_calloc((size_t) t->ne[0], sizeof *a),
          *b = om_calloc((size_t) t->ne[0], sizeof *b);
    for (int64_t i = 0; i < om_hf_tensor_n_rows(t); i++) {
        must(om_hf_rows_f32(a, source, t, OM_HF_MLX, i, 1, &err), &err);
        must(om_hf_rows_f32(b, written, w, OM_HF_MLX, i, 1, &err), &err);
        double largest = 0, worst = 0, squares = 0;
        for (int64_t j = 0; j < t->ne[0]; j++) {
            const double d = fabs((double) a[j] - (double) b[j]);
            largest = fmax(largest, fabs((double) a[j]));
            worst = fmax(worst, d);
            squares += d * d;
        }
        const double rms = sqrt(squares / (double) t->ne[0]);
        if (!((plain ? worst : rms) <= 2 * largest * tolerance(w->format))) {
            fail_msg("%s (%s): row %d: off by %g, rms %g, of %g", t->name, w->format->name, (int) i,
                     worst, rms, largest);
        }
    }
    om_free(a);
    om_free(b);
}

static void check_written(const fixture *f, bool plain) {
    om_error err = { 0 };
    om_hf *written = NULL;
    must(om_hf_open(&written, f->out, &err), &err);
    assert_int_equal(om_hf_n_tensors(written), om_hf_n_tensors(f->source));
    for (int i = 0; i < om_hf_n_tensors(f->source); i++) {
        const om_hf_tensor *t = om_hf_tensor_at(f->source, i);
        const om_format *to = om_allocation_find(f->a, t->name);
        const om_format *found = om_hf_find(written, t->name)->format;
        if (to != NULL && to->mlx != OM_MLX_NONE) {
            assert_ptr_equal(found, to);
        } else {
            assert_int_equal(found->mlx, OM_MLX_NONE);
            assert_int_equal(found->block_bytes, 2);
        }
        check_tensor(f->source, written, t, plain);
    }
    assert_int_equal(om_safetensors_shard_bytes(om_hf_safetensors(written), 0), f->a->bytes);
    om_hf_free(written);
}

static void written_models_are_read_back(void **state) {
    (void) state;
    static const om_tiny_hf_options models[] = {
        { .untied = true, .n_layer = 2 },
        { .model_type = "qwen3", .n_layer = 3, .dtype = "float16" },
        { .model_type = "qwen3", .n_layer = 2, .dtype = "float32", .n_embd = 128, .n_vocab = 70 },
        { .model_type = "qwen3_moe", .n_ff = 64, .n_layer = 2 },
    };
    static const char *const rounds[] = { NULL, "plain" };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        fixture f = begin(&models[i]);
        for (int k = 0; k < 2; k++) { /* the second replaces the first */
            om_result r = { 0 };
            om_error err;
            must(quantize(&r, &f, rounds[k], 2, &err), &err);
            check_written(&f, k == 1);
            assert_non_null(
                strstr(r.json, k == 0 ? "\"round\": \"search\"" : "\"round\": \"plain\""));
            assert_int_equal(om_tmpdir_count(f.dir, ""), 4);
            om_result_release(&r);
        }
        end(&f);
    }
}

static void assert_same_files(const char *dir, const char *other, const char *name) {
    om_error err = { 0 };
    om_map a = { 0 }, b = { 0 };
    char x[300], y[300];
    snprintf(x, sizeof x, "%s/%s", dir, name);
    snprintf(y, sizeof y, "%s/%s", other, name);
    must(om_map_open(&a, x, &err), &err);
    must(om_map_open(&b, y, &err), &err);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    om_map_close(&a);
    om_map_close(&b);
}

static void small_files(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_result r = { 0 };
    om_error err = { 0 };
    char *text = NULL;
    size_t n = 0;
    om_tmpdir_write(f.model, "README.md",
                    "---\nlicense: apache-2.0\nlicense_link: https://x/y\n"
                    "language:\n- en\n---\nlicense: none\n",
                    78);
    om_tmpdir_write(f.model, "chat_template.jinja", "{{ x }}", 7);
    om_tmpdir_write(f.model, "model.old.bin", "x", 1);
    strcat(f.model, "/"); /* as a shell completes it */
    strcat(f.out, "/");
    must(quantize(&r, &f, NULL, 1, &err), &err);
    assert_same_files(f.model, f.out, "tokenizer.json");
    assert_same_files(f.model, f.out, "tokenizer_config.json");
    assert_same_files(f.model, f.out, "chat_template.jinja");
    assert_int_equal(om_tmpdir_count(f.out, ""), 7);
    must(om_file_read(&text, &n, om_tmpdir_path(f.out, "README.md"), 1 << 20, &err), &err);
    assert_true(strncmp(text,
                        "---\nlibrary_name: mlx\npipeline_tag: text-generation\ntags:\n- mlx\n"
                        "license: apache-2.0\nlicense_link: https://x/y\n---\n\n# out\n",
                        60) == 0);
    assert_non_null(strstr(text, "license_link: https://x/y\n---\n"));
    assert_null(strstr(text, "license: none"));
    assert_null(strstr(text, f.dir)); /* no paths of this machine */
    assert_non_null(strstr(text, "optimum quantize model -a allocation.json -o out --to mlx\n"));
    assert_non_null(strstr(text, "| attn_v | 2 | "));
    om_free(text);
    must(om_file_read(&text, &n, om_tmpdir_path(f.out, "model.safetensors.index.json"), 1 << 20,
                      &err),
         &err);
    assert_non_null(strstr(text, "\"lm_head.weight\": \"model.safetensors\""));
    om_free(text);
    om_result_release(&r);
    end(&f);
}

/* ---- nats ---- */

/* Eq. (1) by the definition, in the GGUF's arrangement, in which the marginals are. */
static double naive_nats(const om_hf *source, const om_hf *written, const om_tensor_stats *s) {
    om_error err = { 0 };
    const om_hf_tensor *t = om_hf_find(source, s->name), *u = om_hf_find(written, s->name);
    float *w = om_calloc((size_t) s->n_in, sizeof *w), *q = om_calloc((size_t) s->n_in, sizeof *q);
    double nats = 0;
    for (int64_t e = 0; e < s->experts; e++) {
        double total = 0;
        for (int64_t i = 0; i < s->n_out; i++) {
            total += (double) s->rows[e * s->n_out + i];
        }
        for (int64_t i = 0; i < s->n_out; i++) {
            must(om_hf_rows_f32(w, source, t, OM_HF_GGUF, e * s->n_out + i, 1, &err), &err);
            must(om_hf_rows_f32(q, written, u, OM_HF_GGUF, e * s->n_out + i, 1, &err), &err);
            for (int64_t j = 0; j < s->n_in; j++) {
                const double d = (double) w[j] - (double) q[j];
                const double fisher =
                    (double) s->rows[e * s->n_out + i] * (double) s->cols[e * s->n_in + j] / total;
                nats += fisher * d * d / (2.0 * TOKENS);
            }
        }
    }
    om_free(w);
    om_free(q);
    return nats;
}

static void check_nats(const om_tiny_hf_options *model) {
    fixture f = begin(model);
    om_result r = { 0 };
    om_error err;
    om_hf *written = NULL;
    om_stats *s = NULL;
    om_json *doc = NULL, *record = NULL;
    f.a->routing_nats = 0.0625; /* changed choices of experts: no sum over tensors */
    write_allocation(&f);
    must(quantize(&r, &f, NULL, 2, &err), &err);
    must(om_hf_open(&written, f.out, &err), &err);
    must(om_stats_read(&s, f.stats, &err), &err);
    must(om_json_parse(&doc, r.json, strlen(r.json), "result", "optimum.quantize/1", &err), &err);
    const om_node root = om_node_root(doc, "result");
    om_node list, item;
    size_t n;
    double total = f.a->routing_nats, nats, exact, recorded;
    must(om_node_array(&list, &n, &root, "tensors", &err), &err);
    assert_int_equal(n, om_hf_n_tensors(f.source));
    for (size_t i = 0; i < n; i++) {
        const om_hf_tensor *t = om_hf_tensor_at(f.source, (int) i);
        const om_tensor_stats *e = om_stats_find(s, t->name);
        must(om_node_at(&item, &list, i, &err), &err);
        must(om_node_f64(&nats, &item, "nats", &err), &err);
        if (e == NULL || om_allocation_find(f.a, t->name)->mlx == OM_MLX_NONE) {
            assert_true(nats == 0.0);
            continue;
        }
        const double want = naive_nats(f.source, written, e);
        assert_true(want > 0);
        assert_true(fabs(nats - want) <= 1e-12 * want);
        total += want;
    }
    must(om_node_f64(&exact, &root, "predicted_nats_exact", &err), &err);
    assert_true(fabs(exact - total) <= 1e-12 * total);
    /* and the first shard says the same */
    const char *text = om_safetensors_metadata(om_hf_safetensors(written), "optimum");
    assert_non_null(text);
    assert_true(strlen(text) < OM_MLX_RECORD - 100);
    must(om_json_parse(&record, text, strlen(text), "record", "optimum.mlx/1", &err), &err);
    const om_node said = om_node_root(record, "record");
    must(om_node_f64(&recorded, &said, "predicted_nats", &err), &err);
    assert_true(recorded == exact);
    om_json_free(record);
    om_json_free(doc);
    om_stats_free(s);
    om_hf_free(written);
    om_result_release(&r);
    end(&f);
}

/* llama.cpp reorders the rows of q and k of a llama: their marginals are in that order. */
static void nats_are_those_of_the_bytes(void **state) {
    (void) state;
    check_nats(&llama);
    check_nats(&moe);
}

static void rows_of_llama_are_reordered(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_error err = { 0 };
    const om_hf_tensor *q = om_hf_find(f.source, "blk.0.attn_q.weight");
    const om_hf_tensor *v = om_hf_find(f.source, "blk.0.attn_v.weight");
    float a[64], b[64];
    bool moved = false;
    for (int64_t i = 0; i < q->ne[1]; i++) {
        must(om_hf_rows_f32(a, f.source, q, OM_HF_MLX, i, 1, &err), &err);
        must(om_hf_rows_f32(b, f.source, q, OM_HF_GGUF, om_hf_gguf_row(q, i), 1, &err), &err);
        assert_memory_equal(a, b, sizeof a);
        moved = moved || om_hf_gguf_row(q, i) != i;
    }
    assert_true(moved);
    for (int64_t i = 0; i < v->ne[1]; i++) {
        assert_int_equal(om_hf_gguf_row(v, i), i);
    }
    end(&f);
}

static void without_statistics_rounding_is_plain(void **state) {
    (void) state;
    fixture f = begin(&llama);
    om_result r = { 0 };
    om_error err = { 0 };
    f.a->stats_path[0] = f.a->stats_sha256[0] = '\0';
    write_allocation(&f);
    must(quantize(&r, &f, NULL, 1, &err), &err);
    assert_non_null(strstr(r.json, "\"predicted_nats_exact\": null"));
    assert_non_null(strstr(r.json, "\"round\": \"plain\""));
    om_result_release(&r);
    end(&f);
}

/* ---- slabs, threads, shards ---- */

static void threads_change_nothing(void **state) {
    (void) state;
    fixture f = begin(&moe);
    om_result r1 = { 0 }, r4 = { 0 };
    om_error err;
    char first[300];
    snprintf(first, sizeof first, "%s/first", f.dir);
    must(quantize(&r1, &f, NULL, 1, &err), &err);
    assert_int_equal(rename(f.out, first), 0);
    must(quantize(&r4, &f, NULL, 4, &err), &err);
    static const char *const files[] = { "model.safetensors", "config.json", "README.md",
                                         "model.safetensors.index.json" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        assert_same_files(first, f.out, files[i]);
    }
    om_result_release(&r1);
    om_result_release(&r4);
    end(&f);
}

static void write_shards(const fixture *f, int64_t limit, int *n_shards) {
    om_error err = { 0 };
    om_mlx_plan *plan = NULL;
    om_stats *stats = NULL;
    double nats;
    char sha256[65];
    const om_gguf_record record = om_inputs_record(f->a);
    const om_quantize_options o = { .model = f->model, .allocation = f->allocation, .out = f->out };
    must(om_stats_read(&stats, f->stats, &err), &err);
    must(om_mlx_plan_make(&plan, f->source, f->a, stats, true, limit, &err), &err);
    must(om_mlx_check_target(plan, f->out, &err), &err);
    must(om_mlx_write(&nats, sha256, plan, &record, f->a, &o, f->out, NULL, &err), &err);
    *n_shards = plan->layout.n_shards;
    om_mlx_plan_free(plan);
    om_stats_free(stats);
}

/* Also with shards that are smaller than a module: its codes, scales and biases lie apart. */
static void shards(void **state) {
    (void) state;
    static const int64_t limits[] = { 20000, 3000, 700 };
    fixture f = begin(&moe);
    om_error err = { 0 };
    om_hf *one = NULL, *many = NULL;
    int n_shards = 0, before = 1;
    char first[300];
    snprintf(first, sizeof first, "%s/first", f.dir);
    write_shards(&f, 0, &n_shards);
    assert_int_equal(n_shards, 1);
    assert_int_equal(rename(f.out, first), 0);
    must(om_hf_open(&one, first, &err), &err);
    for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
        write_shards(&f, limits[k], &n_shards);
        assert_true(n_shards > before);
        before = n_shards;
        must(om_hf_open(&many, f.out, &err), &err);
        const om_safetensors *a = om_hf_safetensors(one), *b = om_hf_safetensors(many);
        assert_int_equal(om_safetensors_n_shards(b), n_shards);
        assert_int_equal(om_safetensors_n(a), om_safetensors_n(b));
        for (int i = 0; i < om_safetensors_n(a); i++) {
            const om_st_tensor *x = om_safetensors_at(a, i), *y = om_safetensors_at(b, i);
            assert_string_equal(x->name, y->name);
            assert_int_equal(x->bytes, y->bytes);
            assert_memory_equal(x->data, y->data, (size_t) x->bytes);
        }
        om_hf_free(many);
    }
    om_hf_free(one);
    end(&f);
}

static double last_done, last_total;

static void on_progress(void *ud, const char *stage, double done, double total, const char *unit) {
    (void) ud;
    if (strcmp(stage, "quantize") == 0) {
        assert_string_equal(unit, "bytes");
        assert_true(done >= last_done && done <= total);
        last_done = done;
        last_total = total;
    }
}

static void progress_reaches_the_size(void **state) {
    (void) state;
    fixture f = begin(&llama);
    const om_env env = { .progress = on_progress, .n_threads = 2 };
    const om_quantize_options o = { .model = f.model, .allocation = f.allocation, .out = f.out };
    om_result r = { 0 };
    om_error err = { 0 };
    last_done = last_total = 0;
    must(om_quantize(&r, &o, &env, &err), &err);
    assert_true(last_done == last_total);
    assert_true(last_total == (double) f.a->bytes);
    om_result_release(&r);
    end(&f);
}

/* ---- the check ---- */

static void damage_is_noticed(void **state) {
    (void) state;
    fixture f = begin(&moe);
    om_error err = { 0 };
    om_result r = { 0 };
    om_mlx_plan *plan = NULL;
    om_stats *stats = NULL;
    must(quantize(&r, &f, NULL, 1, &err), &err);
    om_result_release(&r);
    must(om_stats_read(&stats, f.stats, &err), &err);
    must(om_mlx_plan_make(&plan, f.source, f.a, stats, true, 0, &err), &err);
    must(om_mlx_verify(plan, f.out, 7, &err), &err);
    const char *path = om_tmpdir_path(f.out, "model.safetensors");
    char *data = NULL;
    size_t n = 0;
    must(om_file_read(&data, &n, path, 1 << 24, &err), &err);
    for (int i = 0; i < plan->layout.n_tensors; i++) { /* every row of one tensor */
        const om_mlx_tensor *t = &plan->layout.tensors[i];
        for (int64_t k = 0; k < t->st.bytes; k += 2) {
            data[t->offset + k] = (char) (data[t->offset + k] ^ 1);
        }
        must(om_file_write(path, data, n, &err), &err);
        om_error found = { 0 };
        assert_int_equal(om_mlx_verify(plan, f.out, 7, &found), OM_E_INTERNAL);
        assert_non_null(strstr(found.text, plan->items[t->item].tensor->path));
        for (int64_t k = 0; k < t->st.bytes; k += 2) {
            data[t->offset + k] = (char) (data[t->offset + k] ^ 1);
        }
    }
    must(om_file_write(path, data, n - 1, &err), &err);
    assert_int_equal(om_mlx_verify(plan, f.out, 7, &err), OM_E_FORMAT);
    om_free(data);
    om_mlx_plan_free(plan);
    om_stats_free(stats);
    end(&f);
}

/* ---- interruption ---- */

typedef struct countdown {
    int left;
} countdown;

static bool cancelled(void *ud) {
    countdown *c = ud;
    return c->left-- <= 0;
}

static void cancel_leaves_nothing(void **state) {
    (void) state;
    fixture f = begin(&llama);
    bool finished = false;
    for (int n = 0; n < 400 && !finished; n += n < 20 ? 2 : 11) {
        countdown c = { n };
        const om_env env = { .cancelled = cancelled, .ud = &c, .n_threads = 1 };
        const om_quantize_options o = { .model = f.model,
                                        .allocation = f.allocation,
                                        .out = f.out };
        om_result r = { 0 };
        om_error err = { 0 };
        const om_status status = om_quantize(&r, &o, &env, &err);
        finished = status == OM_OK;
        if (!finished) {
            assert_int_equal(status, OM_E_CANCELLED);
            expect_no_output(&f);
        }
        om_result_release(&r);
    }
    assert_true(finished);
    end(&f);
}

static void every_failed_write_is_clean(void **state) {
    (void) state;
    fixture f = begin(&llama);
    bool succeeded = false;
    for (long n = 1; n < 2000 && !succeeded; n++) {
        om_result r = { 0 };
        om_error err;
        om_file_fail_at(n);
        const om_status status = quantize(&r, &f, NULL, 1, &err);
        om_file_fail_at(0);
        succeeded = status == OM_OK;
        if (!succeeded) {
            assert_int_equal(status, OM_E_IO);
            assert_non_null(strstr(err.text, "No space left"));
            assert_non_null(strstr(err.text, f.out));
            expect_no_output(&f);
        }
        om_result_release(&r);
    }
    assert_true(succeeded);
    end(&f);
}

static void every_failed_allocation_is_clean(void **state) {
    (void) state;
    fixture f = begin(&(om_tiny_hf_options){ .n_vocab = 40, .n_embd = 32, .n_ff = 32 });
    bool succeeded = false;
    for (long n = 1; n < 40000 && !succeeded; n += n < 200 ? 1 : 23) {
        om_result r = { 0 };
        om_error err;
        om_mem_fail_at(n);
        const om_status status = quantize(&r, &f, NULL, 1, &err);
        om_mem_fail_at(0);
        succeeded = status == OM_OK;
        if (!succeeded) {
            assert_null(r.json);
            assert_int_equal(om_tmpdir_count(f.dir, "tmp"), 0);
        }
        om_result_release(&r);
    }
    assert_true(succeeded);
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_models_are_read_back),
        cmocka_unit_test(small_files),
        cmocka_unit_test(nats_are_those_of_the_bytes),
        cmocka_unit_test(rows_of_llama_are_reordered),
        cmocka_unit_test(without_statistics_rounding_is_plain),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(shards),
        cmocka_unit_test(progress_reaches_the_size),
        cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(cancel_leaves_nothing),
        cmocka_unit_test(every_failed_write_is_clean),
        cmocka_unit_test(every_failed_allocation_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
