/* The HiGHS adapter: the only file that knows its C API.
 *
 * The core is written as a mixed-integer program with one binary per item, one continuous slack,
 * and
 *
 *   sum_j x_gj = 1                                    per group
 *   sum bytes_gj x_gj / unit + s = capacity / unit + 1/2
 *
 * where unit is the greatest common divisor of all byte counts, so that the coefficients are small
 * integers, and the half makes the tolerance of a floating-point solver harmless: no integer point
 * lies between the capacity and half a unit more. Costs are reduced costs (docs/method.md eq. 10a),
 * scaled so that the limit is 1000: HiGHS's absolute tolerances then mean the same whether the
 * model loses 10 nats or 1e-6.
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

/* Column j < n_items is an item, column n_items the slack; rows are the groups, then the bytes. */
typedef struct mip {
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
    size_t n = (size_t) core->first[core->n_groups] + 1, rows = (size_t) core->n_groups + 1;
    *m = (mip){ .n_cols = (HighsInt) n, .n_rows = (HighsInt) rows };
    m->cost = om_calloc(n, sizeof *m->cost);
    m->lower = om_calloc(n, sizeof *m->lower);
    m->upper = om_calloc(n, sizeof *m->upper);
    m->row_lower = om_calloc(rows, sizeof *m->row_lower);
    m->row_upper = om_calloc(rows, sizeof *m->row_upper);
    m->start = om_calloc(n + 1, sizeof *m->start);
    m->index = om_calloc(2 * n, sizeof *m->index);
    m->integral = om_calloc(n, sizeof *m->integral);
    m->value = om_calloc(2 * n, sizeof *m->value);
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

static int64_t common_unit(const om_core *core) {
    int64_t unit = 0;
    for (int i = 0; i < core->first[core->n_groups]; i++) {
        unit = gcd(unit, core->bytes[i]);
    }
    return unit > 0 ? unit : 1;
}

static void add_entry(mip *m, HighsInt row, double value) {
    m->index[m->n_nz] = row;
    m->value[m->n_nz++] = value;
}

static void mip_fill(mip *m, const om_core *core) {
    const int n_items = core->first[core->n_groups];
    const int64_t unit = common_unit(core);
    const double capacity = (double) (core->capacity / unit) + 0.5;
    const double row = capacity > max_row_value ? max_row_value / capacity : 1.0;
    const double cost = cost_scale / core->limit;
    for (int g = 0; g < core->n_groups; g++) {
        m->row_lower[g] = m->row_upper[g] = 1.0;
        for (int i = core->first[g]; i < core->first[g + 1]; i++) {
            m->cost[i] = core->cost[i] * cost;
            m->upper[i] = 1.0;
            m->integral[i] = kHighsVarTypeInteger;
            m->start[i] = m->n_nz;
            add_entry(m, g, 1.0);
            if (core->bytes[i] > 0) {
                add_entry(m, core->n_groups, (double) (core->bytes[i] / unit) * row);
            }
        }
    }
    /* The slack in units of its own upper bound: coefficient and cost stay in range. */
    double slack = fmin(core->limit / core->slack_cost / (double) unit + 1.0, capacity);
    m->row_lower[core->n_groups] = m->row_upper[core->n_groups] = capacity * row;
    m->cost[n_items] = core->slack_cost * (double) unit * slack * cost;
    m->upper[n_items] = 1.0;
    m->integral[n_items] = kHighsVarTypeContinuous;
    m->start[n_items] = m->n_nz;
    add_entry(m, core->n_groups, slack * row);
    m->start[n_items + 1] = m->n_nz;
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
    int64_t bytes = 0;
    for (int g = 0; g < core->n_groups; g++) {
        int i = core->first[g] + core->start[g];
        m->x[i] = 1.0;
        bytes += core->bytes[i];
    }
    HighsInt s = m->n_cols - 1;
    double row =
        m->row_upper[core->n_groups] / ((double) (core->capacity / common_unit(core)) + 0.5);
    double left = m->row_upper[core->n_groups] - (double) (bytes / common_unit(core)) * row;
    m->x[s] = left / m->value[m->start[s]];
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
    double rest = (double) (core->capacity % common_unit(core)) - 0.5 * (double) common_unit(core);
    result->bound = dual * core->limit / cost_scale + core->slack_cost * rest;
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
