/* SPDX-License-Identifier: Apache-2.0
 * The criteria of score.h that ask what a channel does to the output: gradients and second derivatives by differences of
 * the twin's loss when a channel is scaled; reconstruction by solving every least squares anew. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/score_cases.h"

/* ---- gradients ---- */
static void test_taylor_with_labels(void **state)
{
    (void)state;
    struct model *m = network(0), *five = network(5);
    struct dataset *data = samples_open(x, N, X, y, m);
    double want[GATES] = {0};
    for (int64_t n = 0; n < N; n++)
        for (int i = 0; i < GATES; i++)
            want[i] += pow(slope(n, y[n], i), 2) / N;
    for (int fixed = 0; fixed < 2; fixed++) {
        struct scored s = score_with(fixed ? five : m, "taylor", data, (struct score_opts){.samples = N});
        expect(&s, want, 1e-3);
        scored_free(&s);
    }
    dataset_close(data);
    model_free(m);
    model_free(five);
}

/* Labels drawn from the softmax: the expectation, within five standard errors; a seed gives the same again. */
static void test_taylor_without_labels(void **state)
{
    (void)state;
    enum { TIMES = 60 };
    static float many[TIMES * N * X];
    struct model *m = network(0);
    for (int i = 0; i < TIMES; i++)
        memcpy(many + i * N * X, x, sizeof x);
    struct dataset *data = samples_open(many, TIMES * N, X, NULL, m);
    struct scored s = score_with(m, "taylor", data, (struct score_opts){.seed = 3});
    struct scored again = score_with(m, "taylor", data, (struct score_opts){.seed = 3});
    struct scored other = score_with(m, "taylor", data, (struct score_opts){.seed = 4});
    check_groups(&s);
    for (int i = 0; i < GATES; i++) {
        const double got = i < A ? s.score[0][i] : s.score[1][i - A];
        double mean = 0, square = 0;
        for (int64_t n = 0; n < N; n++)
            for (int c = 0; c < C; c++) {
                struct twin t;
                run_twin(n, NULL, &t);
                const double v = pow(slope(n, c, i), 2), p = exp(log_p(t.z, c));
                mean += p * v / N;
                square += p * v * v / N;
            }
        g_near(got, mean, 5 * sqrt((square - mean * mean) / (TIMES * N)));
        assert_true(got == (i < A ? again.score[0][i] : again.score[1][i - A]));
        assert_true(got != (i < A ? other.score[0][i] : other.score[1][i - A]));
    }
    scored_free(&s);
    scored_free(&again);
    scored_free(&other);
    dataset_close(data);
    model_free(m);
}

/* Sums over weights of |dL/dw| and (w dL/dw)^2 / 2, derivatives by differences of the loss. */
static void test_gradient_and_fisher(void **state)
{
    (void)state;
    struct model *m = network(0);
    struct dataset *data = samples_open(x, N, X, y, m);
    float *const weight[] = {w1, gamma1, w2, w3};
    static const int count[] = {A * 18, A, B * A * 4, C * B * P2};
    double gradient[GATES][3] = {0}, fisher[GATES][3] = {0}, want[2][GATES];
    for (int l = 0; l < 4; l++)
        for (int i = 0; i < count[l]; i++) {
            const float kept = weight[l][i];
            for (int64_t n = 0; n < N; n++) {
                const float up = kept + 2e-3f, down = kept - 2e-3f;
                weight[l][i] = up;
                double g = loss(n, y[n], NULL);
                weight[l][i] = down;
                g = (g - loss(n, y[n], NULL)) / ((double)up - (double)down);
                weight[l][i] = kept;
                const double f = pow(g * (double)kept, 2) / 2;
                const int row = l == 0 ? i / 18 : l == 1 ? i : l == 2 ? A + i / (A * 4) : A + i / P2 % B;
                gradient[row][l < 3 ? l % 2 : 2] += fabs(g) / N;
                fisher[row][l < 3 ? l % 2 : 2] += f / N;
                if (l == 2) {
                    gradient[i / 4 % A][2] += fabs(g) / N;
                    fisher[i / 4 % A][2] += f / N;
                }
            }
        }
    for (int i = 0; i < GATES; i++) {
        want[0][i] = (gradient[i][0] + gradient[i][1] + gradient[i][2]) / (i < A ? 3 : 2);
        want[1][i] = (fisher[i][0] + fisher[i][1] + fisher[i][2]) / (i < A ? 3 : 2);
    }
    for (int which = 0; which < 2; which++) {
        struct scored s = score_with(m, which ? "fisher" : "gradient", data, (struct score_opts){0});
        expect(&s, want[which], 2e-3);
        scored_free(&s);
    }
    dataset_close(data);
    model_free(m);
}

/* The exact Hessian, within five standard errors of the estimator. */
static void test_hessian(void **state)
{
    (void)state;
    struct model *m = network(0);
    for (int labels = 0; labels < 2; labels++) {
        struct dataset *data = samples_open(x, N, X, labels ? y : NULL, m);
        struct scored s = score_with(m, "hessian", data, (struct score_opts){.seed = 5});
        struct scored again = score_with(m, "hessian", data, (struct score_opts){.seed = 5});
        check_groups(&s);
        for (int i = 0; i < GATES; i++) {
            const double got = i < A ? s.score[0][i] : s.score[1][i - A];
            double mean = 0, noise = 0;
            for (int64_t n = 0; n < N; n++)
                for (int j = 0; j < GATES; j++) {
                    const double h = curvature(n, labels ? y[n] : -1, i, j);
                    mean += i == j ? h / N : 0;
                    noise += i == j ? 0 : h * h / N;
                }
            g_near(got, mean / 2, 5 * sqrt(noise / 512) / 2 + 0.02 * fabs(mean) + 1e-4);
            assert_true(got == (i < A ? again.score[0][i] : again.score[1][i - A]));
        }
        scored_free(&s);
        scored_free(&again);
        dataset_close(data);
    }
    model_free(m);
}

/* ---- reconstruction ---- */
enum { K2 = A * 4, K3 = B * P2 };

/* The rows a consumer reads: conv2's patches, the Gemm's vectors. */
static int rows_of(bool conv, double row[][K3])
{
    int rows = 0;
    for (int64_t n = 0; n < N; n++) {
        struct twin t;
        run_twin(n, NULL, &t);
        for (int p = 0; p < (conv ? P2 : 1); p++, rows++)
            for (int k = 0; k < (conv ? K2 : K3); k++)
                row[rows][k] = conv ? t.a1[k / 4][(p / 2 + k % 4 / 2) * 3 + p % 2 + k % 2] : t.a2[k / P2][k % P2];
    }
    return rows;
}

/* min over W' (zero on the columns gone) of tr((W - W') H (W - W')^T): W'_K = W_K + W_S H_SK H_KK^-1, by elimination.
 * */
static double refit_error(const float *w, int outputs, int k, const double *h, const bool *gone)
{
    double m[K3][K3 + 8], sum = 0;
    int kept[K3], nk = 0;
    for (int i = 0; i < k; i++)
        if (!gone[i])
            kept[nk++] = i;
    for (int i = 0; i < nk; i++) {
        for (int j = 0; j < nk; j++)
            m[i][j] = h[kept[i] * k + kept[j]];
        for (int o = 0; o < outputs; o++) {
            m[i][nk + o] = 0;
            for (int s = 0; s < k; s++)
                m[i][nk + o] += gone[s] ? h[kept[i] * k + s] * (double)w[o * k + s] : 0;
        }
    }
    for (int i = 0; i < nk; i++)
        for (int r = 0; r < nk; r++)
            for (int j = nk + outputs - 1; r != i && j >= i; j--)
                m[r][j] -= m[r][i] / m[i][i] * m[i][j];
    for (int o = 0; o < outputs; o++) {
        double e[K3];
        for (int s = 0; s < k; s++)
            e[s] = gone[s] ? (double)w[o * k + s] : 0;
        for (int i = 0; i < nk; i++)
            e[kept[i]] = -m[i][nk + o] / m[i][i];
        for (int i = 0; i < k; i++)
            for (int j = 0; j < k; j++)
                sum += e[i] * h[i * k + j] * e[j];
    }
    return sum;
}

static void greedy_twin(bool conv, double *want)
{
    static double row[N * P2][K3];
    const int k = conv ? K2 : K3, channels = conv ? A : B, outputs = conv ? B : C, rows = rows_of(conv, row);
    const float *w = conv ? w2 : w3;
    double mean[K3] = {0}, h[K3 * K3] = {0}, trace = 0, energy = 0;
    bool gone[K3] = {0};
    for (int i = 0; i < k; i++)
        for (int r = 0; r < rows; r++)
            mean[i] += row[r][i] / rows;
    for (int i = 0; i < k; i++)
        for (int j = 0; j < k; j++)
            for (int r = 0; r < rows; r++)
                h[i * k + j] += (row[r][i] - mean[i]) * (row[r][j] - mean[j]) / rows;
    for (int o = 0; o < outputs; o++)
        for (int i = 0; i < k; i++)
            for (int j = 0; j < k; j++)
                energy += (double)w[o * k + i] * h[i * k + j] * (double)w[o * k + j];
    for (int i = 0; i < k; i++)
        trace += h[i * k + i];
    for (int i = 0; i < k; i++)
        h[i * k + i] += 0.01 * h[i * k + i] + 1e-7 * trace / k;
    for (int step = 0; step < channels; step++) {
        double least = INFINITY;
        int best = -1;
        for (int c = 0; c < channels; c++) {
            if (gone[c * 4])
                continue;
            memset(gone + c * 4, 1, 4);
            const double e = refit_error(w, outputs, k, h, gone);
            memset(gone + c * 4, 0, 4);
            if (e < least) {
                least = e;
                best = c;
            }
        }
        memset(gone + best * 4, 1, 4);
        want[best] = least / energy;
    }
}

static void test_reconstruction(void **state)
{
    (void)state;
    struct model *m = network(0);
    struct dataset *data = samples_open(x, N, X, NULL, m);
    struct pool *pool = pool_new(2);
    double want[GATES];
    greedy_twin(true, want);
    greedy_twin(false, want + A);
    struct scored s = score_with(m, "reconstruction", data, (struct score_opts){.pool = pool});
    expect(&s, want, 1e-4);
    assert_int_equal(json_array_size(s.warnings), 0);
    scored_free(&s);
    pool_free(pool);
    dataset_close(data);
    model_free(m);
}

/* A channel that the others make up for costs nothing, whatever its size; one that is constant neither: the bias
 * takes it. */
static void test_reconstruction_redundant(void **state)
{
    (void)state;
    enum { H = 4, SAMPLES = 200 };
    static float v[3 * H], out[H * 2], bias[H], in[SAMPLES * 3];
    struct rng rng;
    rng_init(&rng, 11, 0);
    for (int i = 0; i < SAMPLES * 3; i++)
        in[i] = (float)rng_normal(&rng);
    for (int k = 0; k < 3; k++) {
        v[k * H] = (float)rng_normal(&rng);
        v[k * H + 1] = (float)rng_normal(&rng);
        v[k * H + 2] = 20 * (v[k * H] + v[k * H + 1]);
    }
    bias[3] = 5;
    for (int i = 0; i < H * 2; i++)
        out[i] = (float)rng_normal(&rng) * (i / 2 == 2 ? 0.05f : 1);
    struct model *m = g_new(13);
    const uint32_t x0 = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 3));
    const uint32_t h = G_OP(m, "Add", "h", G_OP(m, "MatMul", "a", x0, g_const(m, "v", SHAPE(3, H), v)),
                            g_const(m, "bias", SHAPE(H), bias));
    g_output(m, G_OP(m, "MatMul", "z", h, g_const(m, "out", SHAPE(H, 2), out)));
    struct dataset *data = samples_open(in, SAMPLES, 3, NULL, m);
    struct scored s = score_with(m, "reconstruction", data, (struct score_opts){0});
    must(&s);
    assert_true(s.score[0][3] < 1e-3);
    int cheap = 0; /* the first of the three that depend on each other is nearly free, the second is not */
    for (int i = 0; i < 3; i++)
        cheap += s.score[0][i] < 0.01;
    assert_int_equal(cheap, 1);
    scored_free(&s);
    dataset_close(data);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taylor_with_labels),
        cmocka_unit_test(test_taylor_without_labels),
        cmocka_unit_test(test_gradient_and_fisher),
        cmocka_unit_test(test_hessian),
        cmocka_unit_test(test_reconstruction),
        cmocka_unit_test(test_reconstruction_redundant),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
