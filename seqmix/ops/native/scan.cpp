// Selective scan S6 on a CPU: plain C++, no torch headers; one source, built for several instruction sets and chosen at
// run time. Gu and Dao, 2023, arXiv:2312.00752; gradients by the adjoint recurrence with recomputed states.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Everything is float32 and contiguous. Layouts: u, dt, y, dy, du, ddt (Bt, L, D); A, dA (D, N); B, C (Bt, L, G, N);
// dB, dC (parts, Bt, L, G, N), to be summed over parts; h, last, dlast, dh (Bt, D, N), each may be null; marks is opaque,
// (ceil(L / chunk), Bt, G ceil(D / G / 16) 16, N) floats. dy is null in the forward pass.
struct Scan {
  const float *u, *dt, *A, *B, *C, *h, *dy, *dlast;
  float *y, *last, *marks, *du, *ddt, *dA, *dB, *dC, *dh;
  int64_t Bt, L, D, G, N, chunk, parts;
  int32_t zoh, reverse;
};

namespace baseline {
#define LANES 4
#include "scan_body.h"
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
#include "scan_body.h"
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
#include "scan_body.h"
#undef LANES
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

// raised with every change of what Python calls; ABI in __init__.py follows
extern "C" int seqmix_abi(void) { return 1; }

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

// one pass, forward or (dy given) backward; returns 0, or 1 when there is no memory
extern "C" int seqmix_scan(const Scan* s, int isa, int threads) {
#if defined(__x86_64__)
  if (isa == 2) return s->zoh ? avx512::run<true>(*s, threads) : avx512::run<false>(*s, threads);
  if (isa == 1) return s->zoh ? avx2::run<true>(*s, threads) : avx2::run<false>(*s, threads);
#endif
  return s->zoh ? baseline::run<true>(*s, threads) : baseline::run<false>(*s, threads);
}
