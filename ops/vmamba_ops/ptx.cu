// Types and the instructions that CUDA C++ has no header-free name for, of all kernels here, whose text follows. T is F16
// or BF16 where a type matters. Macro: THREADS, of a block.
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;
#define DI __device__ __forceinline__
#define UNROLL _Pragma("unroll")
enum { F32, F16, BF16 };

DI float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DI float log2_(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DI float inverse(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

template <int T> DI u32 pack(float low, float high) {
  u32 d;
  if (T == F16) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
template <int T> DI float low(u32 v) {
  if (T == BF16) return __int_as_float(v << 16);
  float x;
  asm("{.reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(x) : "r"(v));
  return x;
}
template <int T> DI float high(u32 v) {
  if (T == BF16) return __int_as_float(v & 0xffff0000u);
  float x;
  asm("{.reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, b;}" : "=f"(x) : "r"(v));
  return x;
}

// d = c + a b (c and d 16 x 8, float; a 16 x 8 or 16 x 16); fragments as PTX lays them out for mma.m16n8k8 and
// m16n8k16.
template <int T> DI void mma8(float (&d)[4], u32 a0, u32 a1, u32 b0, const float* c) {
  if (T == F16)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
template <int T> DI void mma16(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, const float* c) {
  if (T == F16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
// An 8 x 8 block of 16-bit numbers, a row in four lanes, transposed.
DI u32 transposed(u32 v) {
  u32 d;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(v));
  return d;
}
// Four 8 x 8 blocks from shared memory: lane l gives the start of row l % 8 of block l / 8.
template <bool TRANSPOSED> DI void matrices(u32 (&v)[4], const void* row) {
  const u32 at = (u32)__cvta_generic_to_shared(row);
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(at) : "memory");
}
// Among the four lanes q of a row: from lane q - d, q + d, or lane `from`.
DI float up(float v, int d) { return __shfl_up_sync(~0u, v, d, 4); }
DI float down(float v, int d) { return __shfl_down_sync(~0u, v, d, 4); }
DI float of(float v, int from) { return __shfl_sync(~0u, v, from, 4); }
// Copies to shared memory that go on beside the program: 16 bytes (with `on`, zeros if it is false) or 4. `wait<N>` lets
// the last N of what `commit` closed go on.
typedef u32 Address;  // in shared memory
DI Address address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DI void copy16(Address to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}
DI void copy16(void* to, const void* from, bool on) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from), "r"(on ? 16 : 0) : "memory");
}
DI void copy4(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
               :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
DI void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DI void wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
// A barrier of the warps of one route; counters in shared memory that tell the block what a thread has written.
DI void group(int which) { asm volatile("bar.sync %0, %1;" :: "r"(which + 1), "n"(THREADS / 2) : "memory"); }
DI void publish(int* counter, int value) {
  asm volatile("fence.acq_rel.cta; st.volatile.shared.u32 [%0], %1;"
               :: "r"((u32)__cvta_generic_to_shared(counter)), "r"(value) : "memory");
}
DI bool reached(const int* counter, int value) {  // by all that the warp's lanes look at
  int now;
  asm volatile("ld.volatile.shared.u32 %0, [%1]; fence.acq_rel.cta;"
               : "=r"(now) : "r"((u32)__cvta_generic_to_shared(counter)) : "memory");
  return __all_sync(~0u, now >= value);
}
DI void pause() {}
