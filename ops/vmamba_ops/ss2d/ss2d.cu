// The four-route scan of SS2D with one state a channel, forward and backward, for NVRTC: no header. It follows ptx.cu
// in the source text and is followed by maps.cu and forward.cu or backward.cu. Formulas and layouts: __init__.py and
// naive.py.
//
// A warp walks a route over 16 channels in tiles of TILE = 4 S positions. Its lanes are the 8 x 4 grid of an mma result
// with channels as rows and positions as columns: lane (g, q) holds channels 2g and 2g + 1 of S consecutive positions,
// so that a scan is S steps in a thread and two shuffles. The columns of mma number t are positions S (c / 2) + 2t +
// c % 2. dt comes out of the tensor cores as weights x rows of P; a second mma with 1s in column R (R + 1) spreads B
// (C).
//
// A block has CW channel warps of a route and CW of the same route backwards, which start at the two ends of the map:
// the first to come to a tile writes the output, the second adds to it. Blocks walk the rows, then the columns; or a
// block does one of the two, with an output of its own or, in a launch after the rows', adding to theirs. Tiles are cut
// alike for both directions; what lies past the map's end reads as 0. How maps come to shared memory, and who waits for
// whom: maps.cu. Every sum has a fixed order.
//
// Few maps are cut into segments of tiles as well, a block for each; what comes into a segment is known from a first
// pass: ends.cu.
//
// Macros: IN (0 float, 1 half, 2 bfloat16); R, rank of dt, even; S, 7 or 8; CW; MINBLOCKS and, of ends.cu, HELD: that a
// multiprocessor shall hold; RESIDENT; WRAP: S positions of a lane may cross the end of a line or of the map.
constexpr int TILE = 4 * S, KT = (R + 2 + 7) / 8, RQ = 8 * KT, PITCH = 8 * (KT | 1), NT = 4;  // RQ: a row of P, padded
constexpr int M = IN == F16 ? F16 : BF16;  // what the tensor cores read; float is split into three bfloat16
constexpr int TERMS = IN == F32 ? 3 : 1;
constexpr int PLANE = (TILE + S % 2) * PITCH, STAGE = TERMS * PLANE;  // numbers: a tile of P of a route
constexpr int HALF = CW * 32;
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
// A warp's 16 channels of a position, in bytes. In a tile, SKEW keeps the four lanes q on banks of their own; in a
// whole map, x, dy and the output of a position are neighbours, of which three are never a multiple of all banks.
constexpr int ROW = 16 * (IN == 0 ? 4 : 2), SKEW = S % 2 ? 0 : 32, MAP = 4 * (S * ROW + SKEW), CELL = 3 * ROW;
constexpr int SIDE = ROW / 16 * CW, PIECES = TILE * SIDE, COPIES = (PIECES + HALF - 1) / HALF;  // 16-byte pieces
constexpr int STAGES = (4 * STAGE * 2 + 15) / 16 * 16, COUNTERS = (2 * CW * 4 + 15) / 16 * 16;  // bytes
static_assert(THREADS == 2 * HALF && R % 2 == 0, "a block is two routes of CW warps; R is even");

#if IN == 0
typedef float Raw;
typedef float2 Two;
DI Two two(float a, float b) { return make_float2(a, b); }
DI float first(Two v) { return v.x; }
DI float second(Two v) { return v.y; }
DI Two nothing() { return make_float2(0.f, 0.f); }
#else
typedef u16 Raw;
typedef u32 Two;
DI Two two(float a, float b) { return pack<IN>(a, b); }
DI float first(Two v) { return low<IN>(v); }
DI float second(Two v) { return high<IN>(v); }
DI Two nothing() { return 0u; }
#endif

struct Problem {  // lengths in numbers; every field is 8 bytes, in cuda.py's order
  const Raw *x, *P;
  const float *W, *bias, *A_logs, *Ds;  // (4, D, R), (4, D), (4, D), (4, D)
  float* states;                        // (image, route, tile, channel): at tile starts, or null
  Raw* y;
  const Raw* dy;
  Raw *dx, *dP;
  float *dW, *sums;  // (group of images, 4, D, R); (group, dbias | dA_logs | dD, 4, D); group: and segment
  float* ends;       // (image, route, segment, channel, product | end), or null: one segment
  i64 images, height, width, dim, tiles, magic, walks, per, blocks, segments;
};
// What the blocks of a launch walk: rows and then columns; one of them each; rows alone; columns, after those.
enum { BOTH, APART, ROWS, COLUMNS };

DI void split(float a, float b, u32 (&out)[TERMS]) {
  UNROLL for (int k = 0; k < TERMS; k++) {
    out[k] = pack<M>(a, b);
    if (TERMS > 1) a -= low<M>(out[k]), b -= high<M>(out[k]);
  }
}

// Where a thread is and what it walks.
struct Place {
  int lane, g, q, warp, back, thread, channel, block, H, W, L, D;
  int segments, segment, all, begin, tiles;  // tiles of the map; the segment's first one and their number
  u32 word;  // where in a tile in shared memory the lane's channels at its first position are
  i64 first, last;  // images
  int pair, pairs;
  bool adds;  // to what a launch before has written
  DI Place(const Problem& p) {
    const int number = threadIdx.x >> 5;
    lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3, back = number / CW, warp = number % CW;
    thread = threadIdx.x - back * HALF;
    block = (int)(blockIdx.y % (u32)p.blocks);
    channel = (block * CW + warp) * 16 + 2 * g;
    H = (int)p.height, W = (int)p.width, L = H * W, D = (int)p.dim, all = (int)p.tiles;
    segments = RESIDENT ? 1 : (int)p.segments, segment = (int)(blockIdx.x % (u32)segments);
    begin = segment * all / segments, tiles = (segment + 1) * all / segments - begin;
    word = q * (S * ROW + SKEW) + g * 2 * (u32)sizeof(Raw);
    first = (i64)(blockIdx.x / (u32)segments) * p.per, last = first + p.per < p.images ? first + p.per : p.images;
    adds = p.walks == COLUMNS;
    pair = p.walks == APART ? blockIdx.y / (u32)p.blocks : adds, pairs = p.walks == BOTH ? 2 : pair + 1;
  }
  // Step n of a walk that takes the segment's tiles from the first on, or from the last.
  DI int tile(int n, bool rising) const { return begin + (rising ? n : tiles - 1 - n); }
  // Tiles of a route before the segment.
  DI int before() const { return back ? all - begin - tiles : begin; }
};

// The lines of a route: rows, or columns. Number c along the lines is number c % line of line c / line; rows are one
// line that never ends.
struct Walk {
  u32 line, step, magic, L, D;
  bool back;
  DI Walk(const Place& me, int pair, u32 magic_) : L(me.L), D(me.D), back(me.back) {
    const bool column = pair == 1 && me.H > 1;
    line = me.H, step = column ? me.W : 1, magic = column ? magic_ : 0;
  }
  DI u32 at(u32 c) const {  // its position in memory
    const u32 number = __umulhi(c, magic);
    return (c - number * line) * step + number;
  }
};

// A warp's constants of one route; z comes out in units of log 2.
struct Route {
  u32 w[KT][2][TERMS];
  float bias[2], A[2], D[2];  // D: the sum over the routes, added by who comes to a position first
  DI void load(const Problem& p, const Place& me, int k) {
    UNROLL for (int e = 0; e < 2; e++) {
      const int c = me.channel + e;
      bias[e] = p.bias[k * me.D + c] * LOG2E, A[e] = -exp2_(p.A_logs[k * me.D + c] * LOG2E);
      D[e] = k & 1 ? 0.f : p.Ds[c] + p.Ds[me.D + c] + p.Ds[2 * me.D + c] + p.Ds[3 * me.D + c];
      UNROLL for (int kt = 0; kt < KT; kt++) {
        const int r = 8 * kt + 2 * me.q;
        const float* row = p.W + (i64)(k * me.D + c) * R + r;
        split(r < R ? row[0] * LOG2E : 0.f, r < R ? row[1] * LOG2E : 0.f, w[kt][e]);
      }
    }
  }
};

DI const u16* row_of(const u16* stage, int lane) {  // where lane reads its row of the four blocks of 8 positions
  const int r = lane & 7;
  return stage + ((r >> 1) * S + 2 * (lane >> 3) + (r & 1)) * PITCH;
}
// z[t][2e + o]: channel e, position 2t + o of the lane; bc[t][o] is B there, bc[t][2 + o] is C.
DI void project(const Route& my, const u16* row, int q, float (&z)[NT][4], float (&bc)[NT][4]) {
  const u32 eB = q == R % 8 / 2 ? pack<M>(1.f, 0.f) : 0u, eC = q == R % 8 / 2 ? pack<M>(0.f, 1.f) : 0u;
  const float bias[4] = {my.bias[0], my.bias[0], my.bias[1], my.bias[1]}, zero[4] = {0.f, 0.f, 0.f, 0.f};
  UNROLL for (int kt = 0; kt < KT; kt += 2) {
    UNROLL for (int term = 0; term < TERMS; term++) {
      u32 b0[4], b1[4];
      matrices<false>(b0, row + term * PLANE + kt * 8);
      if (kt + 1 < KT) matrices<false>(b1, row + term * PLANE + kt * 8 + 8);
      UNROLL for (int t = 0; t < NT; t++) {
        UNROLL for (int other = 0; other + term < TERMS; other++) {
          const u32(&w0)[2][TERMS] = my.w[kt];
          const u32(&w1)[2][TERMS] = my.w[kt + 1 < KT ? kt + 1 : kt];
          const float* c = kt + term + other ? z[t] : bias;
          if (kt + 1 < KT) mma16<M>(z[t], w0[0][other], w0[1][other], w1[0][other], w1[1][other], b0[t], b1[t], c);
          else mma8<M>(z[t], w0[0][other], w0[1][other], b0[t], c);
        }
        if (kt == R / 8) mma8<M>(bc[t], eB, eC, b0[t], term ? bc[t] : zero);
        if (kt + 1 == R / 8) mma8<M>(bc[t], eB, eC, b1[t], term ? bc[t] : zero);
      }
    }
  }
}

// softplus of z ln 2, over ln 2. Its error is absolute, 2e-7; float takes the series 2 atanh(t / (2 + t)) for small t.
DI float softplus(float z) {
  const float t = exp2_(-fabsf(z));
  float s = log2_(1.f + t);
  if (IN == F32) {
    const float r = t * inverse(2.f + t), r2 = r * r;
    s = t < 0.25f ? 2.f * LOG2E * r * (1.f + r2 * (0.33333333f + r2 * (0.2f + r2 * 0.14285714f))) : s;
  }
  return fmaxf(z, 0.f) + s;
}

// Composes the maps h -> a h + b of the four lanes q, the first lane's b holding `carry`; gives the state before this
// lane and makes `carry` the one after the last.
DI float compose_up(float a, float b, float& carry, int q) {
  float b_ = up(b, 1), a_ = up(a, 1);
  if (q >= 1) b += a * b_, a *= a_;
  b_ = up(b, 2);
  if (q >= 2) b += a * b_;
  const float before = up(b, 1), old = carry;
  carry = of(b, 3);
  return q == 0 ? old : before;
}
DI float compose_down(float a, float b, float& carry, int q) {
  float b_ = down(b, 1), a_ = down(a, 1);
  if (q <= 2) b += a * b_, a *= a_;
  b_ = down(b, 2);
  if (q <= 1) b += a * b_;
  const float after = down(b, 1), old = carry;
  carry = of(b, 0);
  return q == 3 ? old : after;
}
DI float both(float v) {  // the sum over the four lanes of a row
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}
// What comes into a segment from those that a walk of route k took before: up to a quarter of them a lane q.
DI void arrive(const Problem& p, const Place& me, int k, bool rising, float (&carry)[2]) {
  const int count = rising ? me.segment : me.segments - 1 - me.segment;
  const float4* ends = (const float4*)(p.ends + ((me.first * 4 + k) * me.segments * me.D + me.channel) * 2);
  float a[2] = {1.f, 1.f}, b[2] = {0.f, 0.f};
#pragma unroll 4
  for (int n = me.q * count / 4; n < (me.q + 1) * count / 4; n++) {
    const float4 v = ends[(i64)(rising ? n : me.segments - 1 - n) * (me.D / 2)];
    b[0] = v.x * b[0] + v.y, a[0] *= v.x, b[1] = v.z * b[1] + v.w, a[1] *= v.z;
  }
  carry[0] = carry[1] = 0.f;
  UNROLL for (int e = 0; e < 2; e++) compose_up(a[e], b[e], carry[e], me.q);
}
DI void clear(char* memory, int bytes) {
  for (int i = threadIdx.x * 4; i < bytes; i += THREADS * 4) *(u32*)(memory + i) = 0u;
}
