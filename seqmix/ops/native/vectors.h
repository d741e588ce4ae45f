// Vectors of LANES floats: loads and stores in float32 and bfloat16, sums, exponentials. Included once per instruction set.

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
// lane i is the sum over the lanes of x[i]
static INLINE vf sums(const vf* x) {
  vf low = __builtin_ia32_haddps256(__builtin_ia32_haddps256(x[0], x[1]), __builtin_ia32_haddps256(x[2], x[3]));
  vf high = __builtin_ia32_haddps256(__builtin_ia32_haddps256(x[4], x[5]), __builtin_ia32_haddps256(x[6], x[7]));
  return __builtin_ia32_vperm2f128_ps256(low, high, 0x20) + __builtin_ia32_vperm2f128_ps256(low, high, 0x31);
}
#endif

// adding 1.5 * 2^23 rounds to an integer k and leaves it in the low bits, here with the bias of an exponent
static const float ROUND = 12582912.f + 127.f;

// 2^g - 1 for g from -1/2 to 1/2
static INLINE vf exp2_rest(vf g) {
  vf p = 9.669708448e-3f + g * 1.330026412e-3f;
  p = 5.550559995e-2f + g * p;
  p = 2.402228161e-1f + g * p;
  p = 6.931471806e-1f + g * p;
  return g * p;
}

// 2^k from k + ROUND
static INLINE vf exp2_whole(vf t) {
  vi bits;
  memcpy(&bits, &t, sizeof bits);
  bits <<= 23;
  vf scale;
  memcpy(&scale, &bits, sizeof scale);
  return scale;
}

// 2^x as 2^k (1 + q) with k the nearest integer, relative error 2e-7; q alone gives 2^x - 1 without cancellation
static INLINE vf exp2_parts(vf x, vf* q) {
  x = at_least(x, -126.f);
  vf t = x + ROUND;
  *q = exp2_rest(x - (t - ROUND));
  return exp2_whole(t);
}

// e^z for z <= 0, relative error below 1e-6; 0 below -87
static INLINE vf exp_below(vf z) {
  vf t = at_least(z * 1.44269504f, -126.f) + ROUND, k = t - ROUND;
  // log(2) in two parts, the first of few digits, so that its product with k is exact
  vf q = exp2_rest((z - k * 0.693359375f + k * 2.12194440e-4f) * 1.44269504f), scale = exp2_whole(t);
  return z < -87.f ? (vf){} : scale * q + scale;
}

// log(1 + e^x), relative error below 1e-6; 0 below -87
static INLINE vf softplus(vf x) {
  vf e = exp_below(x < 0.f ? x : -x), s = e / (e + 2.f), w = s * s;
  // log(1 + e) = 2 atanh(e / (e + 2))
  vf p = 1.f / 11 + w * (1.f / 13);
  p = 1.f / 9 + w * p;
  p = 1.f / 7 + w * p;
  p = 1.f / 5 + w * p;
  p = 1.f / 3 + w * p;
  return at_least(x, 0.f) + 2.f * (s + s * (w * p));
}

// its derivative, from its value
static INLINE vf softplus_slope(vf y) {
  vf q, scale = exp2_parts(y * -1.44269504f, &q);
  return 1.f - scale - scale * q;
}

// 1 / (1 + e^-x)
static INLINE vf sigmoid(vf x) {
  vf e = exp_below(x < 0.f ? x : -x);
  return (x < 0.f ? e : (vf){} + 1.f) / (1.f + e);
}

static INLINE vf silu(vf x) { return x * sigmoid(x); }

static INLINE vf silu_slope(vf x) {
  vf s = sigmoid(x);
  return s + x * s * (1.f - s);
}

static INLINE vf* vectors(int64_t count) { return (vf*)aligned_alloc(64, (count * sizeof(vf) + 63) / 64 * 64); }
