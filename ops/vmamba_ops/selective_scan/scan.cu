// Grouped selective scan, forward and backward (see selective_scan/__init__.py for the formulas), for NVRTC: no header. It
// follows ptx.cu in the source text.
//
// A warp holds SLOTS = 32 / LANES slots; in each, LANES lanes share TILE = LANES * ITEMS positions of NROW rows at
// a time, lane j the positions j * ITEMS and on. A block owns rows of one group of one image: it walks the tiles of L
// and within a tile the rows, so that B, C and the sums dB, dC over rows stay with the block. What a tile needs from
// the tile before it (after it, in the backward) is one number a row and state, `carry`, kept in shared memory; the
// states at tile starts go to global memory for the backward. Rows are copied to shared memory STAGES - 1 rounds ahead.
//
// Macros, all set by plan.py: THREADS; IN, OUT, GRAD (0 float, 1 half, 2 bfloat16) the types of the inputs, of out and
// dout, of du and ddelta; LANES, ITEMS, NROW, WARPS, STAGES, MINBLOCKS; ONE: d_state is 1, so B, C, dB, dC live in registers;
// EACH: states of a warp in the backward for several; SOFTPLUS; VEC: every row, tile and lane starts at 16 bytes;
// WHOLE: ITEMS divides L; SLICED: this launch does some of the states and adds to what the launches before it wrote.
template <int T> struct Stored { typedef u16 type; };
template <> struct Stored<F32> { typedef float type; };
template <int T> using Raw = typename Stored<T>::type;

constexpr int SLOTS = 32 / LANES, TILE = LANES * ITEMS, GROUP = SLOTS * NROW;
constexpr int ALL = 32 * ITEMS;  // positions in the hands of a warp
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
template <int T> constexpr int SEGMENT = (TILE * (int)sizeof(Raw<T>) + (VEC ? 0 : 30)) / 16 * 16;  // bytes of a slot

DI int least(int a, int b) { return a < b ? a : b; }
DI int most(int a, int b) { return a > b ? a : b; }

template <int T> DI float number(u16 v) { return low<T>(v); }
template <int T> DI float number(float v) { return v; }
template <int T> DI Raw<T> rounded(float v) {
  if constexpr (T == F32) return v;
  else return (u16)pack<T>(v, 0.f);
}
// ITEMS numbers that start at 16 bytes
template <int T> DI void wide(const void* from, float (&v)[ITEMS]) {
  constexpr int PER = 16 / sizeof(Raw<T>);
  UNROLL for (int i = 0; i < ITEMS / PER; i++) {
    const uint4 q = ((const uint4*)from)[i];
    const u32 w[4] = {q.x, q.y, q.z, q.w};
    UNROLL for (int e = 0; e < 4; e++) {
      if constexpr (T == F32) v[i * PER + e] = __int_as_float(w[e]);
      else v[i * PER + 2 * e] = low<T>(w[e]), v[i * PER + 2 * e + 1] = high<T>(w[e]);
    }
  }
}

// Starts copying `count` numbers from `from` to a slot's segment; unaligned ones with the 16-byte pieces they lie in,
// which never leave the allocation's own 16-byte pieces.
template <int T> DI void prefetch(char* to, const Raw<T>* from, int count, int j) {
  const u32 shift = VEC ? 0 : (u32)(u64)from & 15;
  const u64 source = (u64)from - shift;
  const Address target = address(to);
  const int bytes = count > 0 ? (int)shift + count * (int)sizeof(Raw<T>) : 0;
  UNROLL for (int at = 0; at < SEGMENT<T>; at += LANES * 16)
    if (at + j * 16 < bytes) copy16(target + at + j * 16, (const void*)(source + at + j * 16));
}
// The lane's ITEMS numbers out of a segment, 0 past the first `live`; `from` is where the segment was copied from.
template <int T> DI void fetch(const char* segment, const Raw<T>* from, const char* zeros, int j, int live,
                               float (&v)[ITEMS]) {
  const char* at = segment + (VEC ? 0 : (u32)(u64)from & 15) + j * ITEMS * (int)sizeof(Raw<T>);
  if (WHOLE && live == 0) at = zeros;
  if constexpr (VEC) wide<T>(at, v);
  else UNROLL for (int i = 0; i < ITEMS; i++) v[i] = WHOLE || i < live ? number<T>(((const Raw<T>*)at)[i]) : 0.f;
}
// ITEMS numbers straight from global memory, 0 past `live`.
template <int T> DI void sequence(const Raw<T>* from, int live, float (&v)[ITEMS]) {
  if constexpr (VEC) {
    if (live) wide<T>(from, v);
    else UNROLL for (int i = 0; i < ITEMS; i++) v[i] = 0.f;
  } else UNROLL for (int i = 0; i < ITEMS; i++) v[i] = i < live ? number<T>(from[i]) : 0.f;
}
// Writes a slot's tile (`count` numbers) to `to`, through shared memory where lanes' own stores would be in pieces.
template <int T> DI void store(Raw<T>* to, char* segment, int count, int j, int live, const float (&v)[ITEMS]) {
  constexpr bool ADD = SLICED && T == F32;
  if constexpr (VEC && T != F32) {
    if (live) UNROLL for (int i = 0; i < ITEMS; i += 8)
      *(uint4*)(to + j * ITEMS + i) = make_uint4(pack<T>(v[i], v[i + 1]), pack<T>(v[i + 2], v[i + 3]),
                                                pack<T>(v[i + 4], v[i + 5]), pack<T>(v[i + 6], v[i + 7]));
  } else {
    Raw<T>* shared = (Raw<T>*)segment;
    if constexpr (VEC)
      UNROLL for (int i = 0; i < ITEMS; i += 4)
        *(float4*)(shared + j * ITEMS + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    else UNROLL for (int i = 0; i < ITEMS; i++) shared[j * ITEMS + i] = rounded<T>(v[i]);
    __syncwarp();
    if constexpr (VEC)
      UNROLL for (int i = 0; i < ITEMS; i += 4) {
        const int at = i * LANES + j * 4;
        if (at < count) {
          float4 q = *(float4*)(shared + at);
          if (ADD) {
            const float4 o = *(float4*)(to + at);
            q = make_float4(q.x + o.x, q.y + o.y, q.z + o.z, q.w + o.w);
          }
          *(float4*)(to + at) = q;
        }
      }
    else for (int at = j; at < count; at += LANES) {
      if constexpr (ADD) to[at] += shared[at];
      else to[at] = shared[at];
    }
  }
}

// dt = softplus(z) (linear above 24: there it equals z in float32) and its derivative. The fast form's error is
// absolute, 2e-7: below what 16-bit delta carries; float32 input takes the series 2 atanh(t / (2 + t)) for small t.
DI float softplus(float z, float& slope) {
  const float t = exp2_(z * LOG2E), w = 1.f + t;
  float dt = log2_(w) * LN2;
  if (IN == F32) {
    const float r = t * inverse(2.f + t), s = r * r;
    dt = t < 0.25f ? 2.f * r * (1.f + s * (0.33333333f + s * (0.2f + s * 0.14285714f))) : dt;
  }
  slope = z > 24.f ? 1.f : t * inverse(w);
  return z > 24.f ? z : dt;
}
DI void step_size(float bias, int live, const float (&delta)[ITEMS], float (&dt)[ITEMS], float (&slope)[ITEMS]) {
  if (SOFTPLUS && WHOLE && live == 0) bias = -1e30f;
  UNROLL for (int i = 0; i < ITEMS; i++) {
    const bool on = (WHOLE && SOFTPLUS) || i < live;
    if (SOFTPLUS) dt[i] = softplus(delta[i] + bias, slope[i]);
    else dt[i] = delta[i] + bias, slope[i] = 1.f;
    if (!on) dt[i] = slope[i] = 0.f;
  }
}

// Composes lanes' maps h -> p h + h0 within a slot, from the first lane up (from the last lane down).
DI void compose_up(float p, float& h, int j) {
  UNROLL for (int d = 1; d < LANES; d *= 2) {
    const float h_ = __shfl_up_sync(~0u, h, d, LANES), p_ = 2 * d < LANES ? __shfl_up_sync(~0u, p, d, LANES) : 1.f;
    if (j >= d) h = p * h_ + h, p *= p_;
  }
}
DI void compose_down(float p, float& h, int j) {
  UNROLL for (int d = 1; d < LANES; d *= 2) {
    const float h_ = __shfl_down_sync(~0u, h, d, LANES), p_ = 2 * d < LANES ? __shfl_down_sync(~0u, p, d, LANES) : 1.f;
    if (j + d < LANES) h = p * h_ + h, p *= p_;
  }
}

struct Problem {  // lengths in numbers; every field is 8 bytes, in cuda.py's order
  const Raw<IN>*u, *delta, *B, *C;
  const float *A, *D, *bias;
  i64 B_image, B_group, B_state, C_image, C_group, C_state;
  i64 groups, per_group, length, tiles, splits, rows, states, first_state, all_states, staging;
  float* saved;  // states at the starts of tiles 1, 2 ..., (image, tile - 1, channel, state), or null
  Raw<OUT>* out;
  float* last;  // (image, channel, state)
  const Raw<OUT>* dout;
  const float* dlast;
  Raw<GRAD>*du, *ddelta;
  float *dB, *dC;          // (split, image, group, state, position)
  float *dA, *dD, *dbias;  // (image, channel[, state])
};

// Where a thread and its block are.
struct Place {
  int lane, warp, slot, j, split, rows, states, length, rounds;
  i64 image, group, channel, dim;  // channel: the block's first of dim
  DI Place(const Problem& p) {
    lane = threadIdx.x & 31, warp = threadIdx.x >> 5, slot = lane / LANES, j = lane % LANES;
    const i64 unit = blockIdx.x / (u32)p.splits;
    split = blockIdx.x % (u32)p.splits, states = ONE ? 1 : (int)p.states, length = (int)p.length;
    image = unit / p.groups, group = unit % p.groups, dim = p.groups * p.per_group;
    rows = least((int)p.rows, (int)p.per_group - split * (int)p.rows);
    channel = group * p.per_group + (i64)split * p.rows;
    rounds = (rows + WARPS * GROUP - 1) / (WARPS * GROUP);
  }
  DI int row(int round, int r) const { return (round * WARPS + warp) * GROUP + r * SLOTS + slot; }
  DI i64 state(const Problem& p, int row, int tile) const {  // of `saved`
    return ((image * (p.tiles - 1) + tile - 1) * dim + channel + row) * p.all_states + p.first_state;
  }
  DI i64 start(int row, int tile) const { return (image * dim + channel + row) * length + (i64)tile * TILE; }
  DI int count(int row, int tile) const { return row < rows ? least(TILE, length - tile * TILE) : 0; }
  DI int live(int tile) const { return most(0, least(ITEMS, length - tile * TILE - j * ITEMS)); }
};

// B and C of a tile for several states, in shared memory: (states, PAIR_ROW). PAIRS from a lane's first to the next
// lane's, so that 16-byte reads of 8 lanes are of all banks.
constexpr int PAIRS = ITEMS == 8 ? 10 : ITEMS, PAIR_ROW = LANES * PAIRS;
DI void fill(float2* both, const Problem& p, const Place& me, int tile) {
  for (int i = threadIdx.x; i < me.states * TILE; i += THREADS) {
    const int state = i / TILE, at = i % TILE, to = state * PAIR_ROW + at / ITEMS * PAIRS + at % ITEMS;
    const i64 n = p.first_state + state, t = (i64)tile * TILE + at;
    const i64 B = me.image * p.B_image + me.group * p.B_group + n * p.B_state + t;
    const i64 C = me.image * p.C_image + me.group * p.C_group + n * p.C_state + t;
    both[to] = t < me.length ? make_float2(number<IN>(p.B[B]), number<IN>(p.C[C])) : make_float2(0.f, 0.f);
  }
}

// A block's row constants in shared memory: A log2 e and a carry for each row and state, D and bias for each row.
struct Rows {
  float *A2, *carry, *D, *bias, *end;
  DI Rows(const Problem& p, const Place& me, float* memory) {
    const int many = (int)p.rows * me.states;
    A2 = memory, carry = A2 + many, D = carry + many, bias = D + p.rows, end = bias + p.rows;
    for (int i = threadIdx.x; i < me.rows * me.states; i += THREADS) {
      const i64 at = (me.channel + i / me.states) * p.all_states + p.first_state + i % me.states;
      A2[i] = p.A[at] * LOG2E;
      carry[i] = p.dlast ? p.dlast[me.image * me.dim * p.all_states + at] : 0.f;
    }
    for (int i = threadIdx.x; i < me.rows; i += THREADS) {
      D[i] = p.D ? p.D[me.channel + i] : 0.f;
      bias[i] = p.bias ? p.bias[me.channel + i] : 0.f;
    }
  }
};
