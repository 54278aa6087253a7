// Depthwise 3 x 3 convolution with padding 1 of a channels-last map, then SiLU, for NVRTC: no header.
//
// A thread owns 4 channels, whose weights stay in its registers, and walks a piece of a row at a time with the 3 x 3
// neighbourhood in registers: three loads a position, asked for AHEAD positions before they are needed, because the
// registers leave room for few warps. Neighbouring rows lie with the same block, so two of the three come out of its L1
// cache.
//
// Macros: IN (0 float, 1 half, 2 bfloat16); BIAS; ACT: SiLU follows; FLIP: the weights are turned by 180 degrees (the
// gradient of x); AHEAD; THREADS; BLOCKS: how many blocks of the backward kernel a multiprocessor shall hold.
typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;
#define DI __device__ __forceinline__
#define UNROLL _Pragma("unroll")
enum { F32, F16, BF16 };
constexpr int V = 4;  // channels of a thread

#if IN == 0
typedef float Raw;
typedef float4 Word;  // of V channels
DI Word none() { return make_float4(0.f, 0.f, 0.f, 0.f); }
DI void spread(const Word& q, float (&v)[V]) { v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w; }
DI void write(Raw* p, const float (&v)[V]) { *(float4*)p = make_float4(v[0], v[1], v[2], v[3]); }
#else
typedef u16 Raw;
DI void unpack(u32 v, float& low, float& high) {
  if (IN == BF16) low = __int_as_float(v << 16), high = __int_as_float(v & 0xffff0000u);
  else asm("{.reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;}"
           : "=f"(low), "=f"(high) : "r"(v));
}
DI u32 pack(float low, float high) {
  u32 d;
  if (IN == F16) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
typedef uint2 Word;
DI Word none() { return make_uint2(0, 0); }
DI void spread(const Word& q, float (&v)[V]) { unpack(q.x, v[0], v[1]), unpack(q.y, v[2], v[3]); }
DI void write(Raw* p, const float (&v)[V]) { *(uint2*)p = make_uint2(pack(v[0], v[1]), pack(v[2], v[3])); }
#endif

struct Problem {  // every field is 8 bytes, in cuda.py's order
  const Raw* x;
  const float *weight, *bias;  // (D, 9), (D)
  Raw* y;
  const Raw* dy;
  Raw* dpre;     // the gradient before SiLU
  float* parts;  // (blockIdx.x, 10, D): of the weight's nine numbers and of the bias
  i64 rows, height, width, dim, lanes, segments, segment;  // rows of all images; lanes: threads along the channels
};

DI float sigmoid(float x) {
  float e, y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.4426950408889634f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.f + e));
  return y;
}

struct Place {
  int lane, slot, slots, channel, H, W, D;
  i64 task, tasks, step;
  float weight[9][V], bias[V];
  DI Place(const Problem& p) {
    const int lanes = (int)p.lanes;
    H = (int)p.height, W = (int)p.width, D = (int)p.dim;
    lane = threadIdx.x % lanes, slot = threadIdx.x / lanes, slots = THREADS / lanes;
    channel = (blockIdx.y * lanes + lane) * V;
    tasks = slot < slots ? p.rows * p.segments : 0, task = (i64)blockIdx.x * slots + slot;
    step = (i64)gridDim.x * slots;
    UNROLL for (int c = 0; c < V; c++) {
      UNROLL for (int k = 0; k < 9; k++) weight[k][c] = p.weight[(channel + c) * 9 + (FLIP ? 8 - k : k)];
      bias[c] = BIAS ? p.bias[channel + c] : 0.f;
    }
  }
};

// The 3 x 3 neighbourhood of a position, moved along a row.
struct Window {
  const Raw* row;  // of the middle, at the thread's channels
  bool above, below;
  int W, D;
  float v[3][3][V];  // column, row
  Word next[AHEAD][3];
  DI Window(const Raw* x, i64 r, const Place& me)
      : row(x + r * me.W * me.D + me.channel), above(r % me.H > 0), below(r % me.H + 1 < me.H), W(me.W), D(me.D) {}
  DI void fetch(int w, Word (&to)[3]) const {
    UNROLL for (int i = 0; i < 3; i++) {
      const bool on = w >= 0 && w < W && (i == 1 || (i == 0 ? above : below));
      to[i] = on ? *(const Word*)(row + (w + (i - 1) * W) * D) : none();
    }
  }
  DI void start(int w) {
    Word first[2][3];
    UNROLL for (int j = 0; j < 2; j++) fetch(w - 1 + j, first[j]);
    UNROLL for (int j = 0; j < AHEAD; j++) fetch(w + 1 + j, next[j]);
    UNROLL for (int j = 0; j < 2; j++) UNROLL for (int i = 0; i < 3; i++) spread(first[j][i], v[1 + j][i]);
  }
  DI void step(int w) {  // to position w
    UNROLL for (int i = 0; i < 3; i++) {
      UNROLL for (int c = 0; c < V; c++) v[0][i][c] = v[1][i][c], v[1][i][c] = v[2][i][c];
      spread(next[0][i], v[2][i]);
      UNROLL for (int j = 1; j < AHEAD; j++) next[j - 1][i] = next[j][i];
    }
    fetch(w + 1 + AHEAD, next[AHEAD - 1]);
  }
  DI void convolve(const Place& me, float (&sum)[V]) const {
    UNROLL for (int c = 0; c < V; c++) sum[c] = me.bias[c];
    UNROLL for (int i = 0; i < 3; i++)
      UNROLL for (int j = 0; j < 3; j++)
        UNROLL for (int c = 0; c < V; c++) sum[c] += me.weight[3 * i + j][c] * v[j][i][c];
  }
};

extern "C" __global__ void __launch_bounds__(THREADS) dwconv_forward(const __grid_constant__ Problem p) {
  Place me(p);
  for (; me.task < me.tasks; me.task += me.step) {
    const i64 r = me.task / p.segments;
    const int from = (int)(me.task % p.segments * p.segment), to = min(from + (int)p.segment, me.W);
    Window window(p.x, r, me);
    Raw* y = p.y + r * me.W * me.D + me.channel;
    window.start(from);
#pragma unroll 3
    for (int w = from; w < to; w++) {
      float sum[V];
      window.step(w);
      window.convolve(me, sum);
      if (ACT) UNROLL for (int c = 0; c < V; c++) sum[c] *= sigmoid(sum[c]);
      write(y + w * me.D, sum);
    }
  }
}

// dpre = dy silu'(convolution of x), and this block's share of the gradients of weight and bias.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) dwconv_backward(const __grid_constant__ Problem p) {
  __shared__ float shared[THREADS * V];
  Place me(p);
  float sums[10][V];
  UNROLL for (int k = 0; k < 10; k++) UNROLL for (int c = 0; c < V; c++) sums[k][c] = 0.f;
  for (; me.task < me.tasks; me.task += me.step) {
    const i64 r = me.task / p.segments, at = r * me.W * me.D + me.channel;
    const int from = (int)(me.task % p.segments * p.segment), to = min(from + (int)p.segment, me.W);
    Window window(p.x, r, me);
    window.start(from);
    Word next[AHEAD];
    UNROLL for (int j = 0; j < AHEAD; j++)
      next[j] = from + j < to ? *(const Word*)(p.dy + at + (from + j) * me.D) : none();
#pragma unroll 3
    for (int w = from; w < to; w++) {
      float pre[V], gradient[V];
      spread(next[0], gradient);
      UNROLL for (int j = 1; j < AHEAD; j++) next[j - 1] = next[j];
      next[AHEAD - 1] = w + AHEAD < to ? *(const Word*)(p.dy + at + (w + AHEAD) * me.D) : none();
      window.step(w);
      window.convolve(me, pre);
      UNROLL for (int c = 0; c < V; c++) {
        const float s = sigmoid(pre[c]);
        gradient[c] *= s * (1.f + pre[c] * (1.f - s));
        sums[9][c] += gradient[c];
      }
      UNROLL for (int i = 0; i < 3; i++)
        UNROLL for (int j = 0; j < 3; j++)
          UNROLL for (int c = 0; c < V; c++) sums[3 * i + j][c] += gradient[c] * window.v[j][i][c];
      write(p.dpre + at + w * me.D, gradient);
    }
  }
  UNROLL for (int k = 0; k < 10; k++) {  // over the block's slots, in their order
    __syncthreads();
    UNROLL for (int c = 0; c < V; c++) shared[threadIdx.x * V + c] = sums[k][c];
    __syncthreads();
    if (me.slot) continue;
    UNROLL for (int c = 0; c < V; c++) {
      float total = 0.f;
      for (int s = 0; s < me.slots; s++) total += shared[(s * (int)p.lanes + me.lane) * V + c];
      p.parts[((i64)blockIdx.x * 10 + k) * me.D + me.channel + c] = total;
    }
  }
}
