// After rows.cu. dpre = dy silu'(convolution of x), of a row and of the one before; dx is dpre's convolution with the
// turned filter. A slot hands the outermost of its dpre to its neighbours through shared memory, a row later.
constexpr int SIDE = C * 4, EDGES = (SLOTS + 1) * 2 * SIDE;  // bytes; after the last slot: zeros

struct Edges {
  char* memory;
  u32 mine, left, right;
  DI Edges(const Place& me, char* memory_) : memory(memory_) {
    const u32 lane = 2 * me.lane * 4;
    mine = me.slot * 2 * SIDE + lane;
    left = me.of_image > 0 ? mine - SIDE : SLOTS * 2 * SIDE + lane;
    right = me.of_image + 1 < me.slots ? mine + 2 * SIDE : SLOTS * 2 * SIDE + lane;
    for (int n = threadIdx.x; n < SIDE; n += THREADS) {
      const u32 at = SLOTS * 2 * SIDE + n % (SIDE / 2) * 4;
      *(float*)(memory + n / (SIDE / 2) * EDGES + at) = 0.f;
    }
  }
  DI void give(int row, const float (&dpre)[P][2]) const {
    char* to = memory + (row & 1) * EDGES + mine;
    *(float2*)to = make_float2(dpre[0][0], dpre[0][1]);
    *(float2*)(to + SIDE) = make_float2(dpre[P - 1][0], dpre[P - 1][1]);
  }
  DI void take(int row, u32 side, float (&v)[2]) const {
    const float2 given = *(const float2*)(memory + (row & 1) * EDGES + side);
    v[0] = given.x, v[1] = given.y;
  }
};

// What rows of dpre have brought to rows of dx: `above` to the one of the last row of dpre, `below` to the next.
struct Gradient {
  float above[P][2], below[P][2];
  // Adds dpre of `row`; the row of dx before it is then whole and goes to dx, if `done`.
  DI void add(const Filter& my, const Place& me, const Edges& edges, const float (&dpre)[P][2], int row, Raw* dx,
              bool done) {
    float d[P + 2][2];
    edges.take(row, edges.left, d[0]), edges.take(row, edges.right, d[P + 1]);
    UNROLL for (int j = 0; j < P; j++) UNROLL for (int e = 0; e < 2; e++) d[j + 1][e] = dpre[j][e];
    UNROLL for (int j = 0; j < P; j++) {
      float v[2];
      UNROLL for (int e = 0; e < 2; e++) {
        v[e] = above[j][e], above[j][e] = below[j][e], below[j][e] = 0.f;
        UNROLL for (int n = 0; n < 3; n++) {
          v[e] += my.w[n][e] * d[j + 2 - n][e];
          above[j][e] += my.w[3 + n][e] * d[j + 2 - n][e];
          below[j][e] += my.w[6 + n][e] * d[j + 2 - n][e];
        }
      }
      if (done && me.own(j)) *(Two*)(dx + j * me.D) = two(v);
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) dwconv_backward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  const Place me(p);
  const int first = me.top ? me.top - 1 : 0, last = me.bottom < me.H ? me.bottom : me.H - 1;  // rows of dpre
  const Edges edges(me, memory);
  Ring<true> ring(p, me, memory + 2 * EDGES, first - 1, last + 1);
  const Filter my(p, me);
  Window window;
  Gradient gradient;
  float sums[10][2], dpre[P][2];
  UNROLL for (int k = 0; k < 20; k++) sums[k / 2][k % 2] = 0.f;
  UNROLL for (int k = 0; k < 2 * P; k++) gradient.above[k / 2][k % 2] = gradient.below[k / 2][k % 2] = 0.f;
  window.start(ring);
  Raw* dx = p.dx + me.at(first - 2);
#pragma unroll 3
  for (int r = first; r <= last; r++, dx += me.W * me.D) {
    ring.next();
    if (!me.on) continue;
    if (r > first) gradient.add(my, me, edges, dpre, r - 1, dx, r - 2 >= me.top);
    window.shift();
    window.column(ring, 0), window.column(ring, 1);
    const bool counts = !MASK || (r >= me.top && r < me.bottom);  // else another strip does
    UNROLL for (int j = 0; j < P; j++) {
      float pre[2];
      window.column(ring, j + 2);
      spread(ring.dy_column(j), dpre[j]);
      window.convolve(my, j, pre);
      UNROLL for (int e = 0; e < 2; e++) {
        const float s = sigmoid(pre[e]);
        dpre[j][e] *= s * (1.f + pre[e] * (1.f - s));
        const float d = counts && me.own(j) ? dpre[j][e] : 0.f;
        sums[9][e] += d;
        UNROLL for (int n = 0; n < 9; n++) sums[n][e] += d * window.v[n / 3][j + n % 3][e];
      }
    }
    edges.give(r, dpre);
  }
  __syncthreads();
  if (me.on) {
    gradient.add(my, me, edges, dpre, last, dx, last - 1 >= me.top);
    if (me.bottom == me.H)
      UNROLL for (int j = 0; j < P; j++)
        if (me.own(j)) *(Two*)(dx + (me.W + j) * me.D) = two(gradient.above[j]);
  }
  // the block's share of the gradients of weight and bias: over its slots, in their order
  float* shared = (float*)(memory + 2 * EDGES);
  UNROLL for (int k = 0; k < 10; k++)
    UNROLL for (int e = 0; e < 2; e++) shared[(k * SLOTS + me.slot) * C + 2 * me.lane + e] = sums[k][e];
  __syncthreads();
  for (int n = threadIdx.x; n < (BIAS ? 10 : 9) * C; n += THREADS) {
    const int k = n / C, channel = me.channels + n % C;
    float total = 0.f;
    UNROLL for (int s = 0; s < SLOTS; s++) total += shared[(k * SLOTS + s) * C + n % C];
    if (channel >= me.D) continue;
    if (k < 9) p.dweight[((i64)me.task * me.D + channel) * 9 + k] = total;
    else p.dbias[(i64)me.task * me.D + channel] = total;
  }
}
