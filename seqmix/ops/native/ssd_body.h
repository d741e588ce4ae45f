// State space dual (Dao and Gu, 2024, arXiv:2405.21060, sec. 6) in chunks. Included once per instruction set.
//
// A job is one sequence and some heads of one group. A chunk is a few small matrix products for each head,
//   y = (L * C B^T) x + row * (C S),   S' = total S + B^T (rest * x),
// with x times its step, L the decay between two positions, row that from the beginning, rest that to the end. They are
// products of the decays of single steps: nothing overflows, and a decay of exactly 0 is like any other. Matrices lie row
// by row, filled up to whole vectors; a T at the end of a name says transposed.

static INLINE int64_t up(int64_t n) { return (n + LANES - 1) / LANES * LANES; }
static INLINE vf& at(float* p) { return *(vf*)p; }
static INLINE vf at(const float* p) { return *(const vf*)p; }

// R rows and V vectors of a matrix product, in registers
template <int R, int V>
struct Tile {
  vf sum[R][V];

  // += A B over K terms, A at strides of its own, B in rows
  INLINE void add(int64_t K, const float* A, int64_t down, int64_t along, const float* B, int64_t width) {
    // a copy that has no address, so that it stays in registers
    Tile t = *this;
    for (int64_t k = 0; k < K; ++k, A += along, B += width) {
      vf b[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) b[v] = at(B + v * LANES);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) t.sum[r][v] += A[r * down] * b[v];
    }
    *this = t;
  }

  // += A B with A lower triangular from row i on: what is above the diagonal is not read, so that no NaN comes from there
  INLINE void add_lower(int64_t i, const float* A, int64_t down, const float* B, int64_t width) {
    add(i, A, down, 1, B, width);
    A += i, B += i * width;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
      for (int k = 0; k <= r; ++k)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sum[r][v] += A[r * down + k] * at(B + k * width + v * LANES);
  }

  // f(row, column, vector) for each vector
  template <class F>
  INLINE void each(F f) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) f(r, v * LANES, sum[r][v]);
  }
};

template <int V, class F>
static INLINE void tile_column(int64_t rows, int64_t j, F f) {
  int64_t i = 0;
  for (; i + 6 <= rows; i += 6) f(Tile<6, V>(), i, j, i + 6);
  if (i + 4 <= rows) f(Tile<4, V>(), i, j, i + 4), i += 4;
  if (i + 2 <= rows) f(Tile<2, V>(), i, j, i + 2), i += 2;
  if (i < rows) f(Tile<1, V>(), i, j, i + 1);
}

// f(tile of zeros, first row, first column, row after the last) for all tiles of a matrix
template <class F>
static INLINE void tiles(int64_t rows, int64_t columns, F f) {
  int64_t j = 0;
  for (; j + 2 * LANES <= columns; j += 2 * LANES) tile_column<2>(rows, j, f);
  if (j < columns) tile_column<1>(rows, j, f);
}

static INLINE float total_of(vf x) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += x[i];
  return total;
}

// rows `step` apart, each times its scale if there is one; what lies beside them, the next head, is fetched meanwhile
static void pack(float* to, const float* from, int64_t step, int64_t rows, int64_t columns, const float* scale) {
  for (int64_t i = 0; i < rows; ++i, from += step) {
    float by = scale ? scale[i] : 1.f;
    for (int64_t j = 0; j < columns; j += 16) __builtin_prefetch(from + columns + j);
    for (int64_t j = 0; j < columns; j += LANES, to += LANES) at(to) = load(from + j, columns - j) * by;
  }
}

// the inverse
static void unpack(float* to, int64_t step, const float* from, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i, to += step)
    for (int64_t j = 0; j < columns; j += LANES, from += LANES) store(to + j, at(from), columns - j);
}

// rows of `width` from rows of `step`
static void transpose(float* to, int64_t width, const float* from, int64_t step, int64_t rows, int64_t columns) {
  int64_t i = 0;
  for (; i + LANES <= rows; i += LANES, from += LANES * step)
    for (int64_t j = 0; j < columns; ++j) {
      vf x = {};
#pragma GCC unroll 16
      for (int k = 0; k < LANES; ++k) x[k] = from[k * step + j];
      at(to + j * width + i) = x;
    }
  for (; i < rows; ++i, from += step)
    for (int64_t j = 0; j < columns; ++j) to[j * width + i] = from[j];
}

static void scale_rows(float* x, int64_t width, int64_t rows, const float* scale) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < width; j += LANES, x += LANES) at(x) *= scale[i];
}

// a decay, or zero before it becomes a denormal number: nothing beside anything
static INLINE float settled(float x) { return x < 1e-30f ? 0.f : x; }

// matrices of a job
struct Room {
  float *B, *C, *codes, *BT, *CT, *dBT, *dCT, *scores, *dscores, *L, *M, *W, *x, *dy, *xT, *dyT, *S, *states;
  float *e, *dt, *row, *rest, *reading, *leaving, *products;

  // lay out from `p` on, return the end
  float* lay(const Ssd& s, float* p) {
    int64_t Q = up(s.chunk), N = up(s.N), P = up(s.P);
    auto take = [&](float*& matrix, int64_t size) { matrix = p, p += size; };
    for (float** m : {&B, &C, &codes}) take(*m, Q * N);
    for (float** m : {&BT, &CT, &dBT, &dCT}) take(*m, s.N * Q);
    for (float** m : {&scores, &dscores, &L, &M, &W}) take(*m, Q * Q);
    for (float** m : {&x, &dy}) take(*m, Q * P);
    for (float** m : {&xT, &dyT}) take(*m, s.P * Q);
    for (float** m : {&e, &dt, &row, &rest, &reading, &leaving}) take(*m, Q);
    take(products, Q * LANES);
    take(S, s.N * P);
    take(states, s.N * P * ((s.H / s.G + s.parts - 1) / s.parts));
    return p;
  }
};

struct Job {
  const Ssd& s;
  Room m;
  // widths of matrices, in whole vectors
  int64_t Q, N, P;
  // the sequence: row of the batch, number there, first token, length
  int64_t row, sequence, begin, length;
  // heads from the first to the end, a part of those of the group
  int64_t group, part, first, end;
  int64_t way;
  bool reverse;
  // the chunk: first position in the order of the scan, how many, and the decay over all of them
  int64_t from, q;
  float total;

  Job(const Ssd& s, int64_t job, float* scratch) : s(s), Q(up(s.chunk)), N(up(s.N)), P(up(s.P)) {
    m.lay(s, scratch);
    part = job % s.parts, group = job / s.parts % s.G;
    sequence = job / s.parts / s.G % s.sequences, row = job / s.parts / s.G / s.sequences;
    int64_t heads = s.H / s.G;
    first = group * heads + heads * part / s.parts, end = group * heads + heads * (part + 1) / s.parts;
    begin = s.bounds[sequence], length = s.bounds[sequence + 1] - begin;
  }

  // token that the scan reaches as its i-th
  int64_t token(int64_t i) const { return begin + (reverse ? length - 1 - i : i); }
  int64_t along(int64_t step) const { return reverse ? -step : step; }
  const float* reads(const View& x, int64_t i) const { return (const float*)x.at + row * x.row + token(i) * x.step; }
  // where a result (rows, L, width) has that token
  int64_t place(int64_t i, int64_t width) const { return (row * s.L + token(i)) * width; }
  // (N, P), at the border that the job has reached
  float* state_of(int64_t head) const { return m.states + (head - first) * s.N * P; }
  float* mark(int64_t head) const {
    // chunks do not cross bounds
    int64_t most = s.sequences > 1 ? s.L / s.chunk + s.sequences : (s.L + s.chunk - 1) / s.chunk;
    int64_t chunk = row * most + begin / s.chunk + sequence + from / s.chunk;
    return s.marks + ((chunk * s.ways + way) * s.H + head) * s.N * s.P;
  }
  // states of the caller are (rows, sequences, ways, H, P, N)
  int64_t outer(int64_t head) const {
    return (((row * s.sequences + sequence) * s.ways + way) * s.H + head) * s.P * s.N;
  }

  // B, C, their transposes, and their products
  void open(bool back) {
    int64_t skip = s.strict && from == 0;
    pack(m.B, reads(s.B, from) + way * s.B_way + group * s.N, along(s.B.step), q, s.N, 0);
    memset(m.C, 0, N * sizeof(float));
    const float* C = reads(s.C, from - s.strict + skip) + way * s.C_way + group * s.N;
    pack(m.C + skip * N, C, along(s.C.step), q - skip, s.N, 0);
    transpose(m.BT, Q, m.B, N, q, s.N);
    if (back) transpose(m.CT, Q, m.C, N, q, s.N);
    tiles(q, up(q), [&](auto t, int64_t i, int64_t j, int64_t next) {
      if (j >= next) return;
      t.add(s.N, m.C + i * N, N, 1, m.BT + j, Q);
      t.each([&](int r, int c, vf x) { at(m.scores + (i + r) * Q + j + c) = x; });
    });
  }

  // decays of a head, to the borders and between positions, and M = L * scores
  void decays(int64_t head, bool back) {
    int64_t column = way * s.H + head;
    const float *a = reads(s.a, from) + column, *dt = reads(s.dt, from) + column;
    for (int64_t i = 0; i < q; ++i) m.e[i] = expf(a[i * along(s.a.step)]), m.dt[i] = dt[i * along(s.dt.step)];
    total = 1;
    for (int64_t i = 0; i < q; ++i) {
      float before = total;
      total = settled(total * m.e[i]);
      m.row[i] = s.strict ? before : total;
    }
    float rest = 1;
    for (int64_t i = q - 1; i >= 0; --i) m.rest[i] = rest, rest = settled(rest * m.e[i]);
    // a one between zeros
    float unit[2 * LANES] = {};
    unit[LANES] = 1;
    // the row of L
    float* now = m.products;
    memset(now, 0, Q * sizeof(float));
    for (int64_t i = 0; i < q; ++i) {
      // tiles read whole vectors, and up to five rows below
      int64_t last = i / LANES * LANES, edge = up(i + 6) < Q ? up(i + 6) : Q;
      for (int64_t j = 0; j < edge; j += LANES) {
        vf before = at(now + j), after = before * m.e[i];
        after = after < 1e-30f ? (vf){} : after;
        if (j == last) after += at(unit + LANES - i % LANES);
        vf L = s.strict ? before : after;
        at(now + j) = after;
        at(m.M + i * Q + j) = j > i ? (vf){} : L * at(m.scores + i * Q + j);
        if (back) at(m.L + i * Q + j) = L;
      }
    }
  }

  void forward(int64_t head) {
    float* S = state_of(head);
    if (s.marks) unpack(mark(head), s.P, S, s.N, s.P);
    decays(head, false);
    pack(m.x, reads(s.x, from) + head * s.P, along(s.x.step), q, s.P, m.dt);
    float* y = s.y + place(from, s.H * s.P) + head * s.P;
    int64_t step = along(s.H * s.P);
    tiles(q, P, [&](auto t, int64_t i, int64_t j, int64_t next) {
      t.add(s.N, m.C + i * N, N, 1, S + j, P);
      t.each([&](int r, int, vf& x) { x *= m.row[i + r]; });
      t.add(next, m.M + i * Q, Q, 1, m.x + j, P);
      t.each([&](int r, int c, vf x) {
        float* to = y + (i + r) * step + j + c;
        store(to, way ? x + load(to, s.P - j - c) : x, s.P - j - c);
      });
    });
    scale_rows(m.x, P, q, m.rest);
    carry_on(S, m.B, m.x);
  }

  // S = total S + codesT x
  void carry_on(float* S, const float* codes, const float* x) {
    tiles(s.N, P, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.each([&](int r, int c, vf& x) { x = total * at(S + (i + r) * P + j + c); });
      t.add(q, codes + i, 1, N, x + j, P);
      t.each([&](int r, int c, vf x) { at(S + (i + r) * P + j + c) = x; });
    });
  }

  // what goes through a state: g = scale * (S vT) is added to dcodesT, and its products with codesT are summed
  void border(const float* S, const float* vT, const float* scale, const float* codesT, float* dcodesT, float* sums) {
    memset(sums, 0, Q * sizeof(float));
    tiles(s.N, up(q), [&](auto t, int64_t i, int64_t j, int64_t) {
      t.add(s.P, S + i * P, P, 1, vT + j, Q);
      t.each([&](int r, int c, vf x) {
        int64_t to = (i + r) * Q + j + c;
        x *= at(scale + j + c);
        at(dcodesT + to) += x;
        at(sums + j + c) += x * at(codesT + to);
      });
    });
  }

  void backward(int64_t head) {
    float* G = state_of(head);
    const float* x = reads(s.x, from) + head * s.P;
    int64_t x_step = along(s.x.step), step = along(s.H * s.P);
    pack(m.S, mark(head), s.P, s.N, s.P, 0);
    decays(head, true);
    pack(m.x, x, x_step, q, s.P, m.dt);
    pack(m.dy, reads(s.dy, from) + head * s.P, along(s.dy.step), q, s.P, 0);
    transpose(m.xT, Q, m.x, P, q, s.P);
    transpose(m.dyT, Q, m.dy, P, q, s.P);
    // gradients to M, as W times M
    tiles(q, up(q), [&](auto t, int64_t i, int64_t j, int64_t next) {
      if (j >= next) return;
      t.add(s.P, m.dy + i * P, P, 1, m.xT + j, Q);
      t.each([&](int r, int c, vf x) {
        int64_t to = (i + r) * Q + j + c;
        at(m.dscores + to) += x * at(m.L + to);
        at(m.W + to) = x * at(m.M + to);
      });
    });
    border(m.S, m.dyT, m.row, m.CT, m.dCT, m.reading);
    border(G, m.xT, m.rest, m.BT, m.dBT, m.leaving);
    memset(m.products, 0, q * LANES * sizeof(float));
    float* dx = s.dx + place(from, s.H * s.P) + head * s.P;
    tiles(q, P, [&](auto t, int64_t i, int64_t j, int64_t) {
      t.add(s.N, m.B + i * N, N, 1, G + j, P);
      t.each([&](int r, int, vf& x) { x *= m.rest[i + r]; });
      t.add(q - i, m.M + i * Q + i, 1, Q, m.dy + i * P + j, P);
      t.each([&](int r, int c, vf g) {
        int64_t left = s.P - j - c;
        float* to = dx + (i + r) * step + j + c;
        at(m.products + (i + r) * LANES) += g * load(x + (i + r) * x_step + j + c, left);
        g *= m.dt[i + r];
        store(to, way ? g + load(to, left) : g, left);
      });
    });
    vf through = {};
    for (int64_t i = 0; i < s.N * P; i += LANES) through += at(m.S + i) * at(G + i);
    put_rates(head, total * total_of(through));
    scale_rows(m.dy, P, q, m.row);
    carry_on(G, m.C, m.dy);
  }

  // gradients to steps and log decays: a decay lies between the pairs around it, before later readers, after earlier
  // writers, and on the way of the state
  void put_rates(int64_t head, float through) {
    int64_t width = s.ways * s.H, to = place(from, width) + way * s.H + head, step = along(width);
    // sums over what comes after a position, of W and of reading, and over what comes before, of leaving
    float *below = m.e, *above = m.dt, reading = 0;
    memset(below, 0, Q * sizeof(float));
    above[0] = 0;
    for (int64_t i = 1; i < q; ++i) above[i] = above[i - 1] + m.leaving[i - 1];
    for (int64_t i = q - 1; i >= 0; --i) {
      vf pairs = {};
      float rest = 0;
      for (int64_t j = 0; j <= i; j += LANES) {
        vf before = at(below + j), after = before + at(m.W + i * Q + j), now = s.strict ? before : after;
        at(below + j) = after;
        if (j + LANES <= i) pairs += now;
        else
          for (int64_t k = j; k < i; ++k) rest += now[k - j];
      }
      if (!s.strict) reading += m.reading[i];
      s.da[to + i * step] = through + reading + above[i] + rest + total_of(pairs);
      s.ddt[to + i * step] = total_of(at(m.products + i * LANES));
      if (s.strict) reading += m.reading[i];
    }
  }

  // gradients to B and C of all heads
  void close() {
    int64_t width = s.ways * s.G * s.N, codes = (way * s.G + group) * s.N;
    int64_t before = part * s.rows * s.L * width;
    float* dB = s.dB + before + place(from, width) + codes;
    float* dC = s.dC + before + place(from, width) + codes;
    int64_t step = along(width);
    // nobody reads the last one
    if (s.strict && from + q == length) memset(dC + (q - 1) * step, 0, s.N * sizeof(float));
    if (s.strict) dC -= step;
    transpose(m.codes, N, m.dBT, Q, s.N, q);
    put_codes<true>(dB, step, m.C, 0);
    transpose(m.codes, N, m.dCT, Q, s.N, q);
    put_codes<false>(dC, step, m.B, s.strict && from == 0);
  }

  // what has been found, and dscores or its transpose times codes: readers come after writers
  template <bool writers>
  void put_codes(float* to, int64_t step, const float* codes, int64_t skip) {
    tiles(q, N, [&](auto t, int64_t i, int64_t j, int64_t next) {
      t.each([&](int r, int c, vf& x) { x = at(m.codes + (i + r) * N + j + c); });
      if (writers) t.add(q - i, m.dscores + i * Q + i, 1, Q, codes + i * N + j, N);
      else t.add(next, m.dscores + i * Q, Q, 1, codes + j, N);
      t.each([&](int r, int c, vf x) {
        if (i + r >= skip) store(to + (i + r) * step + j + c, x, s.N - j - c);
      });
    });
  }

  void run() {
    bool back = s.back;
    int64_t chunks = (length + s.chunk - 1) / s.chunk;
    for (way = 0; way < s.ways; ++way) {
      reverse = s.reverse != way;
      for (int64_t h = first; h < end; ++h) transpose(state_of(h), P, (back ? s.dlast : s.S) + outer(h), s.N, s.P, s.N);
      for (int64_t i = 0; i < chunks; ++i) {
        from = (back ? chunks - 1 - i : i) * s.chunk;
        q = length - from < s.chunk ? length - from : s.chunk;
        open(back);
        if (back) {
          memset(m.dBT, 0, s.N * Q * sizeof(float));
          memset(m.dCT, 0, s.N * Q * sizeof(float));
          memset(m.dscores, 0, Q * Q * sizeof(float));
        }
        for (int64_t h = first; h < end; ++h) back ? backward(h) : forward(h);
        if (back) close();
      }
      for (int64_t h = first; h < end; ++h) transpose((back ? s.dS : s.last) + outer(h), s.N, state_of(h), P, s.N, s.P);
    }
  }
};

// returns 0, or 1 when there is no memory
static int run_ssd(const Ssd& s, int threads) {
  int64_t jobs = s.rows * s.sequences * s.G * s.parts;
  if (threads > jobs) threads = jobs > 0 ? (int)jobs : 1;
  // in whole lines of the cache
  int64_t each = (Room().lay(s, (float*)0) - (float*)0 + 15) / 16 * 16;
  float* scratch = (float*)aligned_alloc(64, threads * each * sizeof(float));
  if (!scratch) return 1;
  memset(scratch, 0, threads * each * sizeof(float));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int thread = 0; thread < threads; ++thread)
    for (int64_t job = jobs * thread / threads; job < jobs * (thread + 1) / threads; ++job)
      Job(s, job, scratch + thread * each).run();
  free(scratch);
  return 0;
}
