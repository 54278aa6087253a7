// Runs a CUDA kernel of vmamba_ops on a CPU: every thread is a fiber, which waits at barriers and at what a warp does
// together. It stands in for ptx.cu; SOURCE is the rest of the kernel's text, KERNEL its entry. For tests: slow and plain.
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;
#define DI inline
#define UNROLL
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n)
#define __shared__ static
enum { F32, F16, BF16 };
constexpr int STACK = 256 * 1024;

struct float2 { float x, y; };
static float2 make_float2(float x, float y) { return {x, y}; }
struct float4 { float x, y, z, w; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct uint4 { u32 x, y, z, w; };
static uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
struct Index { u32 x, y; };
static Index threadIdx, blockIdx, gridDim;
static char* shared_memory;

static ucontext_t scheduler, fibers[THREADS];
static char* stacks[THREADS];
static bool ended[THREADS];
static int now;

// `expected` fibers come here before any goes on.
struct Barrier {
  int here = 0;
  u32 round = 0;
  void wait(int expected) {
    const u32 mine = round;
    if (++here == expected) here = 0, round++;
    else while (mine == round) swapcontext(&fibers[now], &scheduler);
  }
};
static Barrier block_barrier, group_barriers[2], warp_barriers[THREADS / 32];
static void __syncthreads() { block_barrier.wait(THREADS); }
static void group(int which) { group_barriers[which].wait(THREADS / 2); }
static void warp() { warp_barriers[now / 32].wait(32); }
static void __syncwarp() { warp(); }
static void copy(void* to, const void* from, int bytes, bool on) { on ? memcpy(to, from, bytes) : memset(to, 0, bytes); }
static void copy16(void* to, const void* from, bool on) { copy(to, from, 16, on); }
typedef char* Address;
static Address address(void* p) { return (char*)p; }
static void copy16(Address to, const void* from) { memcpy(to, from, 16); }
static void copy4(void* to, const void* from) { memcpy(to, from, 4); }
static void commit() {}
template <int N> void wait() {}
template <class T> T cast(auto v) {
  T t;
  static_assert(sizeof t == sizeof v);
  memcpy(&t, &v, sizeof t);
  return t;
}
// Every lane gives `mine`; `see` reads what the 32 gave.
template <class T, class See> auto together(T mine, See see) {
  static T given[THREADS / 32][32];
  given[now / 32][now % 32] = mine;
  warp();
  const auto seen = see(given[now / 32]);
  warp();
  return seen;
}
static void publish(int* counter, int value) { *counter = value; }
static bool reached(const int* counter, int value) {
  return together(*counter >= value, [](bool* all) {
    for (int lane = 0; lane < 32; lane++)
      if (!all[lane]) return false;
    return true;
  });
}
static void pause() { swapcontext(&fibers[now], &scheduler); }
static float lane_of(float v, int lane) { return together(v, [=](float* all) { return all[lane]; }); }
static float up(float v, int d) { return lane_of(v, (now & 3) >= d ? now % 32 - d : now % 32); }
static float down(float v, int d) { return lane_of(v, (now & 3) + d < 4 ? now % 32 + d : now % 32); }
static float of(float v, int from) { return lane_of(v, (now % 32 & ~3) + from); }
static float __shfl_up_sync(u32, float v, int d, int width) {
  return lane_of(v, now % width >= d ? now % 32 - d : now % 32);
}
static float __shfl_down_sync(u32, float v, int d, int width) {
  return lane_of(v, now % width + d < width ? now % 32 + d : now % 32);
}
static float __shfl_xor_sync(u32, float v, int d) { return lane_of(v, now % 32 ^ d); }
static u32 __umulhi(u32 a, u32 b) { return (u32)((uint64_t)a * b >> 32); }

static float __int_as_float(u32 v) { return cast<float>(v); }
static u32 __float_as_int(float v) { return cast<u32>(v); }
template <class T> T __ldcs(const T* p) { return *p; }
static float exp2_(float x) { return exp2f(x); }
static float log2_(float x) { return log2f(x); }
static float inverse(float x) { return 1.f / x; }
template <int T> u32 half_bits(float v) {
  if (T == F16) return cast<u16>((_Float16)v);
  const u32 bits = cast<u32>(v);
  return bits + 0x7fff + (bits >> 16 & 1) >> 16;
}
template <int T> float number(u32 bits) { return T == F16 ? (float)cast<_Float16>((u16)bits) : cast<float>(bits << 16); }
template <int T> u32 pack(float low, float high) { return half_bits<T>(low) | half_bits<T>(high) << 16; }
template <int T> float low(u32 v) { return number<T>(v & 0xffff); }
template <int T> float high(u32 v) { return number<T>(v >> 16); }

struct Operands { u32 a[4], b[2]; };
template <int T> void product(float (&d)[4], Operands mine, int depth, const float* c) {
  const int g = now % 32 / 4, q = now % 4;
  struct Four { float v[4]; };
  const Four sums = together(mine, [&](Operands* all) {
    Four sum;
    for (int j = 0; j < 4; j++) {
      const int row = g + j / 2 * 8, column = 2 * q + j % 2;
      sum.v[j] = c[j];
      for (int k = 0; k < depth; k++) {
        const u32 a = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], b = all[column * 4 + k % 8 / 2].b[k / 8];
        sum.v[j] += k % 2 ? high<T>(a) * high<T>(b) : low<T>(a) * low<T>(b);
      }
    }
    return sum;
  });
  memcpy(d, sums.v, sizeof d);
}
template <int T> void mma8(float (&d)[4], u32 a0, u32 a1, u32 b0, const float* c) {
  product<T>(d, {{a0, a1}, {b0}}, 8, c);
}
template <int T> void mma16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, const float* c) {
  product<T>(d, {{a0, a1, a2, a3}, {b0, b1}}, 16, c);
}
static u32 transposed(u32 v) {
  const int g = now % 32 / 4, q = now % 4;
  return together(v, [=](u32* all) {
    const u32 first = all[2 * q * 4 + g / 2] >> g % 2 * 16, second = all[(2 * q + 1) * 4 + g / 2] >> g % 2 * 16;
    return (first & 0xffff) | second << 16;
  });
}
template <bool TRANSPOSED> void matrices(u32 (&v)[4], const void* row) {
  const int g = now % 32 / 4, q = now % 4;
  struct Four { u32 v[4]; };
  const Four found = together((const u16*)row, [=](const u16** rows) {
    Four four;
    for (int m = 0; m < 4; m++) {
      const u16* const* block = rows + 8 * m;
      four.v[m] = TRANSPOSED ? block[2 * q][g] | (u32)block[2 * q + 1][g] << 16 : block[g][2 * q] | (u32)block[g][2 * q + 1] << 16;
    }
    return four;
  });
  memcpy(v, found.v, sizeof v);
}

#include SOURCE

static const Problem* problem;
static void fiber() {
  KERNEL(*problem);
  ended[now] = true;
  swapcontext(&fibers[now], &scheduler);
}
// Runs every block, one after the other; shared memory starts as garbage.
extern "C" void run(const Problem* given, int grid_x, int grid_y, int shared) {
  gridDim = {(u32)grid_x, (u32)grid_y}, problem = given, shared_memory = (char*)aligned_alloc(128, (shared + 127) / 128 * 128);
  for (int block = 0; block < grid_x * grid_y; block++) {
    memset(shared_memory, 0xff, shared);
    for (int t = 0; t < THREADS; t++) {
      if (!stacks[t]) stacks[t] = (char*)malloc(STACK);
      getcontext(&fibers[t]);
      fibers[t].uc_stack.ss_sp = stacks[t], fibers[t].uc_stack.ss_size = STACK, fibers[t].uc_link = nullptr;
      makecontext(&fibers[t], fiber, 0);
      ended[t] = false;
    }
    for (bool running = true; running;) {
      running = false;
      for (now = 0; now < THREADS; now++) {
        if (ended[now]) continue;
        running = true, threadIdx = {(u32)now, 0}, blockIdx = {(u32)block % grid_x, (u32)block / grid_x};
        swapcontext(&scheduler, &fibers[now]);
      }
    }
  }
  free(shared_memory);
}
