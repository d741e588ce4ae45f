// Kernels for a CPU: plain C++, no torch headers; one source, built for several instruction sets and chosen at run time.
// Selective scan S6 (Gu and Dao, 2023, arXiv:2312.00752), with gradients by the adjoint recurrence and recomputed states,
// state space dual, gated delta rule, depthwise convolution, root mean square norm, linear recurrence, and sLSTM.

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

// the compilers' own choice leaves the width of a load open in the innermost loops
#define INLINE inline __attribute__((always_inline))

// a tensor in rows and steps whose other axes are contiguous; strides in elements; bfloat16 if `half`, else float32
struct View {
  const void* at;
  int64_t row, step, half;
};

// u, dt, dy (rows, L, D) and B, C (rows, L, G, N) are views; everything else is float32 and contiguous. An item is a row,
// or with `bounds` (items + 1) a stretch of the only row. y, du, ddt as u; A, dA (D, N); dB, dC (parts, rows, L, G, N),
// to be summed over parts; h, last, dlast, dh (items, D, N), each may be null; with `bias` (D), or null, dt and ddt are
// from before step sizes softplus(dt + bias); with skip (D), or null, y has skip u added to it; with a gate z, a view as u
// or null, y is multiplied by SiLU(z), and `inner`, as u, is what it was before. marks (chunks, N, D), see marks() for how
// many; null if every item has one chunk and starts from zero, or if no backward pass follows: then `inner` is null too.
// `back` asks for the gradients.
struct Scan {
  View u, dt, B, C, z, dy;
  const float *A, *bias, *skip, *h, *dlast;
  const int64_t* bounds;
  float *y, *inner, *last, *marks, *du, *ddt, *dA, *dB, *dC, *dskip, *dz, *dh;
  int64_t items, L, D, G, N, chunk, parts, zoh, reverse, back;
};

// y[t] = SiLU(c) for c = bias + sum_k weight[:, k] x[t - left + k], or c itself without `silu`; with dy y[t] is the
// gradient to c. With `back` gradients to weight and bias from g, that to c. x, g and dy are views (Bt, L, D) of one type, y is
// contiguous and of that type; weight, dweight (D, K) and bias, dbias (D) are float32.
struct Conv {
  View x, g, dy;
  const float *weight, *bias;
  void* y;
  float *dweight, *dbias;
  int64_t Bt, L, D, K, left, silu, back;
};

// x, dy (rows, L, H, P), dt, a (rows, L, ways, H) and B, C (rows, L, ways, G, N) are views in float32, a the log decays,
// the directions of B and C at strides of their own; everything else is contiguous. `bounds` (sequences + 1) cut every
// row. y, dx as x, summed over the directions; ddt, da as dt; dB, dC (parts, rows, L, ways, G, N), to be summed over parts;
// S, last, dlast, dS (rows, sequences, ways, H, P, N); marks (rows, chunks, ways, H, N, P), null if not wanted, see mark()
// for how many. `back` asks for the gradients. The second direction is opposite to the first.
struct Ssd {
  View x, dt, a, B, C, dy;
  const float *S, *dlast;
  const int64_t* bounds;
  float *y, *last, *marks, *dx, *ddt, *da, *dB, *dC, *dS;
  int64_t rows, sequences, L, H, P, ways, G, N, chunk, parts, reverse, strict, back, B_way, C_way;
};

// q, e, w (rows, L, H, K), v, dy (rows, L, H, V) and the decays of steps (rows, L, H, channels), one or K, are views in
// float32; e is null without `erases`. Everything else is contiguous: `bounds` (sequences + 1) cut every row; y, dv as v;
// dq, de, dw as q; ddecay, by the logarithm, as decay; S, last, dlast, dS (rows, sequences, H, K, V); marks (rows, chunks,
// H, K, V), null if not wanted, see mark() for how many. `back` asks for the gradients.
struct Delta {
  View q, e, w, v, decay, dy;
  const float *S, *dlast;
  const int64_t* bounds;
  float *y, *last, *marks, *dq, *de, *dw, *dv, *ddecay, *dS;
  int64_t rows, sequences, L, H, K, V, channels, chunk, erases, back;
};

// y = x / rms(x) weight over each of G groups of W channels, times SiLU(z) where z is not null; with `gate_first` x is
// x SiLU(z) instead. x, z, g (Bt, L, G, W) are views in float32, the rest is contiguous: y, dx, dz as x; weight, dweight
// (G, W). `back` asks for the gradients.
struct Norm {
  View x, z, g;
  const float* weight;
  float *y, *dx, *dz, *dweight;
  int64_t Bt, L, G, W, gate_first, back;
  double eps;
};

// y[t] = a[t] y[t - 1] + x[t] from the state h (Bt, D), from the last step to the first with `reverse`; x, a, g (Bt, L, D)
// are views in float32, y, dx, da (Bt, L, D) and h, dh (Bt, D) contiguous. `back` asks for the gradients, from g and y.
struct Recurrence {
  View x, a, g;
  const float* h;
  float *y, *dx, *da, *dh;
  int64_t Bt, L, D, reverse, back;
};

// states (Bt, L, 4, H, P) of sLSTM, which are output, memory, normalizer and exponent, from `gates` of that shape, the maps
// `recurrent` (H, 4 P, P) and the state before the first step (Bt, 4, H, P), all float32 and contiguous. `back` asks for
// the gradients: g to the states; gates are then whole logits, with what was heard of the output before.
struct Slstm {
  const float *gates, *recurrent, *state, *g;
  float *states, *dgates, *dstate;
  int64_t Bt, L, H, P, back;
};

// states that go through a chunk together
enum { STATES = 4 };

namespace baseline {
#define LANES 4
#include "vectors.h"
#include "scan_lanes.h"
#include "scan_body.h"
#include "conv_body.h"
#include "ssd_body.h"
#include "delta_body.h"
#include "norm_body.h"
#include "recurrence_body.h"
#include "slstm_body.h"
#undef LANES
}  // namespace baseline

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define LANES 8
#include "vectors.h"
#include "scan_lanes.h"
#include "scan_body.h"
#include "conv_body.h"
#include "ssd_body.h"
#include "delta_body.h"
#include "norm_body.h"
#include "recurrence_body.h"
#include "slstm_body.h"
#undef LANES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma,prefer-vector-width=512")
#endif
namespace avx512 {
#define LANES 16
#include "vectors.h"
#include "scan_lanes.h"
#include "scan_body.h"
#include "conv_body.h"
#include "ssd_body.h"
#include "delta_body.h"
#include "norm_body.h"
#include "recurrence_body.h"
#include "slstm_body.h"
#undef LANES
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// the threads of OpenMP do not survive a fork, and a child that calls on them waits for ever
static bool forked = false;

__attribute__((constructor)) static void watch_forks(void) {
  pthread_atfork(0, 0, [] { forked = true; });
}

// raised with every change of what Python calls; ABI in __init__.py follows
extern "C" int seqmix_abi(void) { return 15; }

// whether loops are shared among threads
extern "C" int seqmix_openmp(void) {
#if defined(_OPENMP)
  return 1;
#else
  return 0;
#endif
}

// 0: baseline (SSE2 or NEON), 1: AVX2, 2: AVX-512
extern "C" int seqmix_best_isa(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

// every size is above zero, and groups divide what is grouped
static bool fits(std::initializer_list<int64_t> sizes) {
  for (int64_t size : sizes)
    if (size < 1) return false;
  return true;
}

// one pass, forward or backward; returns 0, 1 when there is no memory, or 2 when the sizes are none
extern "C" int seqmix_scan(const Scan* s, int isa, int threads) {
  if (!fits({s->items, s->L, s->D, s->G, s->N, s->chunk, s->parts, threads}) || s->D % s->G) return 2;
  if (forked) threads = 1;
#if defined(__x86_64__)
  if (isa == 2) return s->zoh ? avx512::run_scan<true>(*s, threads) : avx512::run_scan<false>(*s, threads);
  if (isa == 1) return s->zoh ? avx2::run_scan<true>(*s, threads) : avx2::run_scan<false>(*s, threads);
#endif
  return s->zoh ? baseline::run_scan<true>(*s, threads) : baseline::run_scan<false>(*s, threads);
}

// likewise
extern "C" int seqmix_conv(const Conv* c, int isa, int threads) {
  if (!fits({c->Bt, c->L, c->D, c->K, threads}) || c->left < 0 || c->left >= c->K) return 2;
  if (forked) threads = 1;
#if defined(__x86_64__)
  if (isa == 2) return c->x.half ? avx512::run_conv<uint16_t>(*c, threads) : avx512::run_conv<float>(*c, threads);
  if (isa == 1) return c->x.half ? avx2::run_conv<uint16_t>(*c, threads) : avx2::run_conv<float>(*c, threads);
#endif
  return c->x.half ? baseline::run_conv<uint16_t>(*c, threads) : baseline::run_conv<float>(*c, threads);
}

// likewise
extern "C" int seqmix_ssd(const Ssd* s, int isa, int threads) {
  if (!fits({s->rows, s->sequences, s->L, s->H, s->P, s->G, s->N, s->chunk, s->parts, threads})) return 2;
  if (s->H % s->G || s->ways < 1 || s->ways > 2) return 2;
  if (forked) threads = 1;
#if defined(__x86_64__)
  if (isa == 2) return avx512::run_ssd(*s, threads);
  if (isa == 1) return avx2::run_ssd(*s, threads);
#endif
  return baseline::run_ssd(*s, threads);
}

// likewise
extern "C" int seqmix_delta(const Delta* s, int isa, int threads) {
  if (!fits({s->rows, s->sequences, s->L, s->H, s->K, s->V, s->channels, s->chunk, threads})) return 2;
  if (s->channels > 1 && s->channels != s->K) return 2;
  if (forked) threads = 1;
#if defined(__x86_64__)
  if (isa == 2) return avx512::run_delta(*s, threads);
  if (isa == 1) return avx2::run_delta(*s, threads);
#endif
  return baseline::run_delta(*s, threads);
}

// likewise
extern "C" int seqmix_norm(const Norm* c, int isa, int threads) {
  if (!fits({c->Bt, c->L, c->G, c->W, threads})) return 2;
  if (forked) threads = 1;
#if defined(__x86_64__)
  if (isa == 2) return avx512::run_norm(*c, threads);
  if (isa == 1) return avx2::run_norm(*c, threads);
#endif
  return baseline::run_norm(*c, threads);
}

// likewise
extern "C" int seqmix_recurrence(const Recurrence* r, int isa, int threads) {
  if (!fits({r->Bt, r->L, r->D, threads})) return 2;
  if (forked) threads = 1;
#if defined(__x86_64__)
  if (isa == 2) return avx512::run_recurrence(*r, threads);
  if (isa == 1) return avx2::run_recurrence(*r, threads);
#endif
  return baseline::run_recurrence(*r, threads);
}

// likewise
extern "C" int seqmix_slstm(const Slstm* s, int isa, int threads) {
  if (!fits({s->Bt, s->L, s->H, s->P, threads})) return 2;
  if (forked) threads = 1;
#if defined(__x86_64__)
  if (isa == 2) return avx512::run_slstm(*s, threads);
  if (isa == 1) return avx2::run_slstm(*s, threads);
#endif
  return baseline::run_slstm(*s, threads);
}
