/* The HiGHS adapter: the only file that knows its C API.
 *
 * The core is written as a mixed-integer program with one binary per item, one continuous slack,
 * and
 *
 *   sum_j x_gj = 1                                    per group
 *   sum bytes_gj x_gj / unit + s = capacity / unit + 1/2
 *
 * (and the same row with a slack of its own for active bytes, where they are limited) where unit is
 * the greatest common divisor of all byte counts, so that the coefficients are small integers, and
 * the half makes the tolerance of a floating-point solver harmless: no integer point lies between
 * the capacity and half a unit more. Costs are reduced costs (docs/method.md eq. 10a), scaled so
 * that the limit is 1000: HiGHS's absolute tolerances then mean the same whether the model loses 10
 * nats or 1e-6.
 *
 * HiGHS reports a call status and a model status; both are looked at.
 */
#include "alloc/solve.h"

#include <math.h>
#include <string.h>

/* Its header declares a static function that nobody defines; gcc reports that at the end of the
 * file, so the warning cannot be switched back on after the include. */
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include <interfaces/highs_c_api.h>

#include "base/mem.h"

static const double cost_scale = 1000.0;
static const double max_row_value = 1e4;

enum { MAX_LIMITS = 2 };

/* One limited sum: a row and its slack. */
typedef struct limit_row {
    const int64_t *bytes; /* [n_items] */
    int64_t capacity, unit;
    double slack_cost;
    double full;  /* capacity in units, with the half */
    double scale; /* of the row */
    double slack; /* upper bound of the slack in units: its column counts in this */
} limit_row;

/* Column j < n_items is an item, the columns after it are the slacks; rows are the groups, then the
 * limits. */
typedef struct mip {
    limit_row limits[MAX_LIMITS];
    int n_limits;
    HighsInt n_cols, n_rows, n_nz;
    double *cost, *lower, *upper;       /* [n_cols] */
    double *row_lower, *row_upper;      /* [n_rows] */
    HighsInt *start, *index, *integral; /* [n_cols] [n_nz] [n_cols] */
    double *value, *x;                  /* [n_nz] [n_cols] */
} mip;

static void mip_release(mip *m) {
    om_free(m->cost);
    om_free(m->lower);
    om_free(m->upper);
    om_free(m->row_lower);
    om_free(m->row_upper);
    om_free(m->start);
    om_free(m->index);
    om_free(m->integral);
    om_free(m->value);
    om_free(m->x);
}

static om_status mip_alloc(mip *m, const om_core *core, om_error *err) {
    const size_t limits = core->active_bytes != NULL ? 2 : 1;
    const size_t n = (size_t) core->first[core->n_groups] + limits;
    const size_t rows = (size_t) core->n_groups + limits;
    const size_t n_nz = (1 + limits) * n;
    *m = (mip){ .n_limits = (int) limits, .n_cols = (HighsInt) n, .n_rows = (HighsInt) rows };
    m->cost = om_calloc(n, sizeof *m->cost);
    m->lower = om_calloc(n, sizeof *m->lower);
    m->upper = om_calloc(n, sizeof *m->upper);
    m->row_lower = om_calloc(rows, sizeof *m->row_lower);
    m->row_upper = om_calloc(rows, sizeof *m->row_upper);
    m->start = om_calloc(n + 1, sizeof *m->start);
    m->index = om_calloc(n_nz, sizeof *m->index);
    m->integral = om_calloc(n, sizeof *m->integral);
    m->value = om_calloc(n_nz, sizeof *m->value);
    m->x = om_calloc(n, sizeof *m->x);
    if (m->cost == NULL || m->lower == NULL || m->upper == NULL || m->row_lower == NULL ||
        m->row_upper == NULL || m->start == NULL || m->index == NULL || m->integral == NULL ||
        m->value == NULL || m->x == NULL) {
        return om_fail_nomem(err, n * 80);
    }
    return OM_OK;
}

static int64_t gcd(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

static int64_t common_unit(const int64_t *bytes, int n) {
    int64_t unit = 0;
    for (int i = 0; i < n; i++) {
        unit = gcd(unit, bytes[i]);
    }
    return unit > 0 ? unit : 1;
}

/* More than the largest items together need is as good as no limit, and keeps the numbers small. */
static int64_t useful_capacity(const om_core *core, const int64_t *bytes, int64_t capacity) {
    int64_t sum = 0;
    for (int g = 0; g < core->n_groups; g++) {
        int64_t most = 0;
        for (int i = core->first[g]; i < core->first[g + 1]; i++) {
            most = bytes[i] > most ? bytes[i] : most;
        }
        sum += most;
    }
    return sum < capacity ? sum : capacity;
}

static limit_row make_limit(const om_core *core, const int64_t *bytes, int64_t capacity,
                            double slack_cost) {
    limit_row r = { .bytes = bytes, .capacity = capacity, .slack_cost = slack_cost };
    if (!(slack_cost > 0.0)) {
        r.capacity = useful_capacity(core, bytes, capacity);
    }
    r.unit = common_unit(bytes, core->first[core->n_groups]);
    r.full = (double) (r.capacity / r.unit) + 0.5;
    r.scale = r.full > max_row_value ? max_row_value / r.full : 1.0;
    r.slack = r.full;
    if (slack_cost > 0.0) {
        r.slack = fmin(core->limit / slack_cost / (double) r.unit + 1.0, r.full);
    }
    return r;
}

static void add_entry(mip *m, HighsInt row, double value) {
    m->index[m->n_nz] = row;
    m->value[m->n_nz++] = value;
}

static void mip_fill(mip *m, const om_core *core) {
    const int n_items = core->first[core->n_groups];
    const double cost = cost_scale / core->limit;
    m->limits[0] = make_limit(core, core->bytes, core->capacity, core->slack_cost);
    if (m->n_limits == 2) {
        m->limits[1] =
            make_limit(core, core->active_bytes, core->active_capacity, core->active_slack_cost);
    }
    for (int g = 0; g < core->n_groups; g++) {
        m->row_lower[g] = m->row_upper[g] = 1.0;
        for (int i = core->first[g]; i < core->first[g + 1]; i++) {
            m->cost[i] = core->cost[i] * cost;
            m->upper[i] = 1.0;
            m->integral[i] = kHighsVarTypeInteger;
            m->start[i] = m->n_nz;
            add_entry(m, g, 1.0);
            for (int k = 0; k < m->n_limits; k++) {
                const limit_row *r = &m->limits[k];
                if (r->bytes[i] > 0) {
                    add_entry(m, core->n_groups + k, (double) (r->bytes[i] / r->unit) * r->scale);
                }
            }
        }
    }
    /* The slack in units of its own upper bound: coefficient and cost stay in range. */
    for (int k = 0; k < m->n_limits; k++) {
        const limit_row *r = &m->limits[k];
        const int row = core->n_groups + k, column = n_items + k;
        m->row_lower[row] = m->row_upper[row] = r->full * r->scale;
        m->cost[column] = r->slack_cost * (double) r->unit * r->slack * cost;
        m->upper[column] = 1.0;
        m->integral[column] = kHighsVarTypeContinuous;
        m->start[column] = m->n_nz;
        add_entry(m, row, r->slack * r->scale);
    }
    m->start[m->n_cols] = m->n_nz;
}

static HighsInt set_options(void *highs, const om_core *core) {
    HighsInt bad = 0;
    bad |= Highs_setBoolOptionValue(highs, "output_flag", 0);
    bad |= Highs_setIntOptionValue(highs, "threads", 1);
    bad |= Highs_setIntOptionValue(highs, "random_seed", 1);
    bad |= Highs_setStringOptionValue(highs, "parallel", "off");
    bad |= Highs_setIntOptionValue(highs, "mip_max_nodes", 20000);
    bad |= Highs_setDoubleOptionValue(highs, "mip_rel_gap", 0.0);
    bad |= Highs_setDoubleOptionValue(highs, "mip_abs_gap",
                                      fmax(core->tolerance / core->limit * cost_scale, 1e-6));
    bad |= Highs_setDoubleOptionValue(highs, "mip_feasibility_tolerance", 1e-8);
    bad |= Highs_setDoubleOptionValue(highs, "primal_feasibility_tolerance", 1e-8);
    return bad;
}

static HighsInt set_start(void *highs, mip *m, const om_core *core) {
    const int n_items = core->first[core->n_groups];
    int64_t bytes[MAX_LIMITS] = { 0 };
    for (int g = 0; g < core->n_groups; g++) {
        int i = core->first[g] + core->start[g];
        m->x[i] = 1.0;
        for (int k = 0; k < m->n_limits; k++) {
            bytes[k] += m->limits[k].bytes[i];
        }
    }
    for (int k = 0; k < m->n_limits; k++) {
        const limit_row *r = &m->limits[k];
        double left = r->full * r->scale - (double) (bytes[k] / r->unit) * r->scale;
        m->x[n_items + k] = left / m->value[m->start[n_items + k]];
    }
    return Highs_setSolution(highs, m->x, NULL, NULL, NULL);
}

static bool read_pick(int *pick, const mip *m, const om_core *core) {
    for (int g = 0; g < core->n_groups; g++) {
        int best = core->first[g];
        for (int i = best + 1; i < core->first[g + 1]; i++) {
            if (m->x[i] > m->x[best]) {
                best = i;
            }
        }
        if (m->x[best] < 0.99) {
            return false;
        }
        pick[g] = best - core->first[g];
    }
    return true;
}

static om_status read_result(int *pick, om_core_result *result, void *highs, mip *m,
                             const om_core *core, HighsInt run, om_error *err) {
    const HighsInt model = Highs_getModelStatus(highs);
    HighsInt primal = kHighsSolutionStatusNone;
    double dual = 0.0;
    *result = (om_core_result){ .found = false };
    if (run != kHighsStatusError && model == kHighsModelStatusInfeasible) {
        *result = (om_core_result){ .proven = true, .bound = core->limit };
        return OM_OK;
    }
    bool stopped =
        model == kHighsModelStatusSolutionLimit || model == kHighsModelStatusIterationLimit;
    if (run == kHighsStatusError || (model != kHighsModelStatusOptimal && !stopped)) {
        return om_fail(err, OM_E_INTERNAL, "HiGHS failed: status %d, model status %d", (int) run,
                       (int) model);
    }
    HighsInt bad = Highs_getIntInfoValue(highs, "primal_solution_status", &primal);
    bad |= Highs_getDoubleInfoValue(highs, "mip_dual_bound", &dual);
    bad |= Highs_getSolution(highs, m->x, NULL, NULL, NULL);
    if (bad != kHighsStatusOk || !isfinite(dual)) {
        return om_fail(err, OM_E_INTERNAL, "HiGHS: no result after model status %d", (int) model);
    }
    /* The program's slack counts from half a unit above the last full one, the caller's from the
     * capacity. */
    result->bound = dual * core->limit / cost_scale;
    for (int k = 0; k < m->n_limits; k++) {
        const limit_row *r = &m->limits[k];
        double rest = (double) (r->capacity % r->unit) - 0.5 * (double) r->unit;
        result->bound += r->slack_cost * rest;
    }
    result->proven = model == kHighsModelStatusOptimal;
    result->found = primal == kHighsSolutionStatusFeasible && read_pick(pick, m, core);
    if (result->proven && !result->found) {
        return om_fail(err, OM_E_INTERNAL, "HiGHS: optimal, but its answer is not integral");
    }
    return OM_OK;
}

om_status om_core_solve(int *pick, om_core_result *result, const om_core *core, om_error *err) {
    om_status status = OM_OK;
    void *highs = NULL;
    mip m = { 0 };
    OM_TRY(mip_alloc(&m, core, err));
    mip_fill(&m, core);
    highs = Highs_create();
    if (highs == NULL) {
        OM_TRY(om_fail(err, OM_E_NOMEM, "HiGHS: not enough memory"));
    }
    HighsInt bad = set_options(highs, core);
    bad |= Highs_passMip(highs, m.n_cols, m.n_rows, m.n_nz, kHighsMatrixFormatColwise,
                         kHighsObjSenseMinimize, 0.0, m.cost, m.lower, m.upper, m.row_lower,
                         m.row_upper, m.start, m.index, m.value, m.integral);
    if (bad == kHighsStatusOk && core->start != NULL) {
        bad = set_start(highs, &m, core);
    }
    if (bad != kHighsStatusOk) {
        OM_TRY(om_fail(err, OM_E_INTERNAL, "HiGHS refused the program: status %d", (int) bad));
    }
    HighsInt run = Highs_run(highs);
    OM_TRY(read_result(pick, result, highs, &m, core, run, err));
out:
    if (highs != NULL) {
        Highs_destroy(highs);
    }
    mip_release(&m);
    return status;
}
