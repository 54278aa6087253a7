// After rows.cu.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) dwconv_forward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  const Place me(p);
  Ring<false> ring(p, me, memory, me.top - 1, me.bottom);
  const Filter my(p, me);
  Window window;
  window.start(ring);
  Raw* y = p.y + me.at(me.top);
#pragma unroll 3
  for (int r = me.top; r < me.bottom; r++, y += me.W * me.D) {
    ring.next();
    if (!me.on) continue;
    window.shift();
    window.column(ring, 0), window.column(ring, 1);
    UNROLL for (int j = 0; j < P; j++) {
      window.column(ring, j + 2);
      float v[2];
      window.convolve(my, j, v);
      UNROLL for (int e = 0; e < 2; e++) v[e] *= sigmoid(v[e]);
      if (me.own(j)) *(Two*)(y + j * me.D) = two(v);
    }
  }
}
