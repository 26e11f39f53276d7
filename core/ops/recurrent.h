/* SPDX-License-Identifier: Apache-2.0
 * recurrent.h - what the forward functions of RNN, GRU and LSTM (recurrent.c, float32) and their gradients
 * (recurrent_grad.c, float64 inside) share. */
#ifndef PARED_OPS_RECURRENT_H
#define PARED_OPS_RECURRENT_H

#include "core/ops/couple.h"

enum { RNN_FORWARD, RNN_REVERSE, RNN_BIDIRECTIONAL, RNN_MAX_GATES = 4, RNN_MAX_FUNCTIONS = 3 };

struct rnn_attrs {
    int direction;
    int64_t hidden_size, layout;
    float clip;
    bool input_forget, linear_before_reset, output_sequence;
    struct op_strings activations;
    struct op_floats activation_alpha, activation_beta;
};

/* Kinds of activations, in the order of the table in recurrent.c. */
enum rnn_kind {
    RNN_SIGMOID,
    RNN_TANH,
    RNN_RELU,
    RNN_AFFINE,
    RNN_LEAKY_RELU,
    RNN_THRESHOLDED_RELU,
    RNN_SCALED_TANH,
    RNN_HARD_SIGMOID,
    RNN_ELU,
    RNN_SOFTSIGN,
    RNN_SOFTPLUS,
    RNN_KINDS
};
struct rnn_function {
    int kind;
    float alpha, beta;
};

struct rnn_cell {
    int gates, n_functions;
    int defaults[RNN_MAX_FUNCTIONS];
    bool has_c, gru;
};
const struct rnn_cell *rnn_cell_of(const char *type);

/* The two products of a float32 cell, for operators that multiply differently (DynamicQuantizeLSTM.c). Directions
 * may run side by side: `dir` tells which one calls. */
struct rnn_products {
    void *arg;
    /* out [rows, gates H] = x [rows, I] W */
    void (*input)(void *arg, int64_t dir, const float *x, int64_t rows, float *out);
    /* out [rows, gates H] = state [rows, H] R */
    void (*state)(void *arg, int64_t dir, const float *state, int64_t rows, float *out);
};
/* Coupling of the hidden units, the inputs and the sequences. transposed: the gates stand in W's and R's last axis, not in
 * their second. */
void rnn_couple(struct coupling *k, const struct rnn_cell *cell, bool transposed);
void rnn_shrink(struct shrink *s, bool transposed);
/* A float32 run of node c whose attributes are struct rnn_attrs and whose inputs but 1 and 2 (the weights) and
 * outputs are those of the cell; outputs are allocated. hidden: H. products NULL: the weights are float32, as in
 * RNN, GRU and LSTM. */
int rnn_forward_f32(struct run_ctx *c, const struct rnn_cell *cell, int64_t hidden, const struct rnn_products *products,
                    struct err *err);
/* Checks and infers outputs for inputs other than the weights; hidden is H or DIM_UNKNOWN. */
int rnn_infer_outputs(struct infer_ctx *c, const struct rnn_cell *cell, enum dtype dtype, int64_t hidden,
                      struct err *err);
/* An optional input of exactly this shape, as far as it is known. */
int rnn_check_shape(const struct infer_ctx *c, int i, const char *what, struct shape want, struct err *err);
/* The functions of a direction, by name or default; ERR_OPERATOR for an unknown name. */
int rnn_functions(const struct rnn_cell *cell, const struct rnn_attrs *a, int64_t dir,
                  struct rnn_function f[RNN_MAX_FUNCTIONS], struct err *err);
/* The time step that sequence n is at in round k; -1: it is over. */
int64_t rnn_time_of(int64_t k, int64_t length, bool backward);

/* float64: outputs are allocated, inputs checked. */
int rnn_forward_f64(struct run_ctx *c, struct err *err);
int rnn_backward(struct grad_ctx *c, struct err *err);

#endif
