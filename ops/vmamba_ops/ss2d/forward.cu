// The forward kernel; follows ss2d.cu. Shared memory: for each of the two routes two stages of P.
extern "C" __global__ void __launch_bounds__(THREADS, MINBLOCKS) ss2d_forward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  const Place me(p);
  const int N = me.tiles, q = me.q;
  const i64 LD = (i64)me.L * me.D, LP = (i64)me.L * (4 * RP);
  u16* stages = (u16*)memory + me.back * 2 * STAGE;
  clear(memory, 4 * STAGE * 2);

  for (int pair = me.pair; pair < me.pairs; pair++) {
    const int k = pair + 2 * me.back;
    const Walk walk(me, pair, (u32)p.magic);
    Route my;
    my.load(p, me, k);
    const Raw* x = p.x;
    Raw* y = p.y + (p.split == 2 ? pair * p.images * LD : 0);
    float carry[2];
    Staged ahead;
    Two x_ahead[S];
    ahead.load(p.P + me.first * LP, walk, me.back ? N - 1 : 0, me.thread, k);
    read(x + me.first * LD, Spots(walk, me.back ? N - 1 : 0, me), x_ahead);
    __syncthreads();  // the stages are cleared, or nobody reads them any more
    ahead.store(stages, me.thread);
    int n = 0, parity = 0;
#pragma unroll 1
    for (i64 image = me.first; image < me.last;) {
      const int tile = me.back ? N - 1 - n : n, next = n + 1 < N ? n + 1 : 0;
      const i64 next_image = image + (next == 0);
      const bool more = next_image < me.last;
      __syncthreads();
      if (n == 0) carry[0] = carry[1] = 0.f;
      const Spots here(walk, tile, me);
      Two u[S], old[S];
      UNROLL for (int i = 0; i < S; i++) u[i] = x_ahead[i], old[i] = nothing();
      const int next_tile = me.back ? N - 1 - next : next;
      if (more) {
        ahead.load(p.P + next_image * LP, walk, next_tile, me.thread, k);
        read(x + next_image * LD, Spots(walk, next_tile, me), x_ahead);
      }
      // the two routes meet in the middle of the map, in one tile if there is a middle one
      const bool tie = 2 * n == N - 1, add = (pair > me.pair) || 2 * n > N - 1 || (tie && me.back);
      Raw* out = y + image * LD;
      if (add && !(tie && me.back)) read(out, here, old);

      float z[NT][4], bc[NT][4], h[2][S];
      project(my, row_of(stages + parity * STAGE, me.lane), q, z, bc);
      if (p.states && q == 0)
        *(float2*)(p.states + ((image * 4 + k) * N + n) * me.D + me.channel) = make_float2(carry[0], carry[1]);
      UNROLL for (int e = 0; e < 2; e++) {
        float a[S], b[S], product = 1.f, local = q == 0 ? carry[e] : 0.f;
        UNROLL for (int i = 0; i < S; i++) {
          const int t = i / 2, o = i % 2;
          const float s = softplus(z[t][2 * e + o]);
          a[i] = exp2_(s * my.A[e]);
          b[i] = s * ((e ? second(u[i]) : first(u[i])) * (bc[t][o] * LN2));
          local = a[i] * local + b[i];
          product *= a[i];
        }
        float state = compose_up(product, local, carry[e], q);
        UNROLL for (int i = 0; i < S; i++) h[e][i] = state = a[i] * state + b[i];
      }
      if (tie && me.back) {
        meet();
        read(out, here, old);
      }
      UNROLL for (int i = 0; i < S; i++) {
        const float C = bc[i / 2][2 + i % 2];
        old[i] = two(first(old[i]) + C * h[0][i] + my.D[0] * first(u[i]),
                     second(old[i]) + C * h[1][i] + my.D[1] * second(u[i]));
      }
      write(out, here, old);
      if (tie && !me.back) meet();
      parity ^= 1;
      if (more) ahead.store(stages + parity * STAGE, me.thread);
      n = next, image = next_image;
    }
  }
}
