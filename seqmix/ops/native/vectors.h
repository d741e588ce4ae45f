// Vectors of LANES floats, loads and stores in float32 and bfloat16. Included once per instruction set.

typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

static INLINE float widen(float x) { return x; }

static INLINE float widen(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float y;
  memcpy(&y, &bits, sizeof y);
  return y;
}

static INLINE vf load(const float* p, int64_t count) {
  if (count >= LANES) return *(const vf*)p;
  vf x = {};
  memcpy(&x, p, count * sizeof(float));
  return x;
}

static INLINE vf load(const uint16_t* p, int64_t count) {
  vh x = {};
  if (count >= LANES) x = *(const vh*)p;
  else memcpy(&x, p, count * sizeof(uint16_t));
  vi bits = __builtin_convertvector(x, vi) << 16;
  vf y;
  memcpy(&y, &bits, sizeof y);
  return y;
}

static INLINE void store(float* p, vf x, int64_t count) {
  if (count >= LANES) *(vf*)p = x;
  else memcpy(p, &x, count * sizeof(float));
}

// rounds to nearest, ties to even; NaN stays NaN
static INLINE void store(uint16_t* p, vf x, int64_t count) {
  vi bits;
  memcpy(&bits, &x, sizeof bits);
  vi rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  vh y = __builtin_convertvector(x == x ? rounded : (vi){} + 0x7fc0, vh);
  if (count >= LANES) *(vh*)p = y;
  else memcpy(p, &y, count * sizeof(uint16_t));
}

// the larger of x and a constant; NaN is passed on
static INLINE vf at_least(vf x, float least) {
  vf y = (vf){} + least;
#if defined(__x86_64__) && LANES == 8
  // gcc makes two instructions of the comparison
  return __builtin_ia32_maxps256(y, x);
#else
  return y > x ? y : x;
#endif
}

#if defined(__x86_64__) && LANES == 8
// lane i is the sum over the lanes of x[i]; gcc would transpose first
static INLINE vf sums(const vf* x) {
  vf low = __builtin_ia32_haddps256(__builtin_ia32_haddps256(x[0], x[1]), __builtin_ia32_haddps256(x[2], x[3]));
  vf high = __builtin_ia32_haddps256(__builtin_ia32_haddps256(x[4], x[5]), __builtin_ia32_haddps256(x[6], x[7]));
  return __builtin_ia32_vperm2f128_ps256(low, high, 0x20) + __builtin_ia32_vperm2f128_ps256(low, high, 0x31);
}
#endif

static INLINE vf* vectors(int64_t count) { return (vf*)aligned_alloc(64, (count * sizeof(vf) + 63) / 64 * 64); }
