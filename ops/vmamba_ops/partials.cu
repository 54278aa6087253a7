// Sums of partial results over their first dimension, several arrays in one launch, for NVRTC: no header. It follows
// ptx.cu in the source text.
//
// A thread adds 16 bytes of every slices-th part in float32; then the slices of a block are added in their order and
// rounded once. So the order depends on the shapes alone. Parts are read for the last time: lines of the L2 that hold
// them are the first to go, which leaves room to those still to be read.
//
// Macros: THREADS; JOBS, the most arrays of a launch.
constexpr int LOADS = 8;  // of a thread at a time
template <int T> constexpr int WIDTH = T == F32 ? 4 : 8;  // numbers in 16 bytes

struct Job {  // every field is 8 bytes, in partials.py's order; lengths in bytes
  const char* from;
  char* to;
  i64 parts, stride, size, kind, slices, copies, end;  // size of a part; end: the block after the job's last
};
struct Problem {
  Job jobs[JOBS];
};

template <int T> DI void add(float (&sum)[WIDTH<T>], const uint4& v) {
  const u32 word[4] = {v.x, v.y, v.z, v.w};
  UNROLL for (int i = 0; i < 4; i++) {
    if constexpr (T == F32) sum[i] += __int_as_float(word[i]);
    else sum[2 * i] += low<T>(word[i]), sum[2 * i + 1] += high<T>(word[i]);
  }
}
template <int T> DI uint4 rounded(const float (&sum)[WIDTH<T>]) {
  u32 word[4];
  UNROLL for (int i = 0; i < 4; i++) {
    if constexpr (T == F32) word[i] = (u32)__float_as_int(sum[i]);
    else word[i] = pack<T>(sum[2 * i], sum[2 * i + 1]);
  }
  return {word[0], word[1], word[2], word[3]};
}

template <int T> DI void total(const Job& job, int block, float* memory) {
  float(*shared)[WIDTH<T>] = (float(*)[WIDTH<T>])memory;
  const int slices = (int)job.slices, lanes = THREADS / slices, lane = threadIdx.x % lanes, slice = threadIdx.x / lanes;
  const i64 at = ((i64)block * lanes + lane) * 16, step = job.stride * slices;
  const bool on = at < job.size;
  float sum[WIDTH<T>];
  UNROLL for (int i = 0; i < WIDTH<T>; i++) sum[i] = 0.f;
  const char* from = job.from + job.stride * slice + at;
  for (int n = slice; on && n < job.parts; n += LOADS * slices, from += LOADS * step) {
    uint4 v[LOADS];
    UNROLL for (int k = 0; k < LOADS; k++) {
      v[k] = {0u, 0u, 0u, 0u};
      if (n + k * slices < job.parts) v[k] = __ldcs((const uint4*)(from + k * step));
    }
    UNROLL for (int k = 0; k < LOADS; k++) add<T>(sum, v[k]);
  }
  if (slices > 1) {
    UNROLL for (int i = 0; i < WIDTH<T>; i++) shared[threadIdx.x][i] = sum[i];
    __syncthreads();
    if (slice) return;
    for (int s = 1; s < slices; s++)
      UNROLL for (int i = 0; i < WIDTH<T>; i++) sum[i] += shared[s * lanes + lane][i];
  }
  const uint4 v = rounded<T>(sum);
  for (int c = 0; on && c < job.copies; c++) *(uint4*)(job.to + c * job.size + at) = v;
}

extern "C" __global__ void __launch_bounds__(THREADS) partials(const __grid_constant__ Problem p) {
  extern __shared__ float shared[];
  int block = blockIdx.x, j = 0;
  while (block >= p.jobs[j].end) j++;
  const Job& job = p.jobs[j];
  if (j) block -= (int)p.jobs[j - 1].end;
  if (job.kind == F32) total<F32>(job, block, shared);
  else if (job.kind == F16) total<F16>(job, block, shared);
  else total<BF16>(job, block, shared);
}
