// The forward kernel; follows maps.cu. Shared memory: for each of the two routes two stages of P, the counters, the
// maps.
extern "C" __global__ void __launch_bounds__(THREADS, MINBLOCKS) ss2d_forward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  const Place me(p);
  const int N = me.tiles, q = me.q, images = (int)(me.last - me.first);
  const bool rising = !me.back;
  clear(memory, STAGES + COUNTERS);
  Flow<1> flow(p, me, memory, memory + STAGES + COUNTERS);
  __syncthreads();

  int step = 0;
  for (int pair = me.pair; pair < me.pairs; pair++) {
    const int k = pair + 2 * me.back;
    const Walk walk(me, pair, (u32)p.magic);
    Route my;
    my.load(p, me, k);
    Raw* y = p.y + (p.walks == APART ? pair * p.images * me.L * me.D : 0);
    float* states = p.states + ((me.first * 4 + k) * me.all + me.before()) * me.D + me.channel;
    float carry[2];
    flow.start(walk, pair, y, me.tile(0, rising), step);
    arrive(p, me, k, rising, carry);
    int n = 0;
#pragma unroll 1
    for (int image = 0; image < images;) {
      const int n_next = n + 1 < N ? n + 1 : 0, image_next = image + (n_next == 0);
      const int needs = flow.needs(n, step);
      const Tile here = flow.enter(walk, image, me.tile(n, rising), n, step, needs);
      if (image_next < images) flow.fetch(walk, image_next, me.tile(n_next, rising), step + 1);
      commit();

      float z[NT][4], bc[NT][4], h[2][S];
      Two u[S];
      UNROLL for (int i = 0; i < S; i++) u[i] = here.x(i);
      project(my, row_of(flow.rows.stage(step), me.lane), q, z, bc);
      if (p.states && q == 0)
        *(float2*)(states + (i64)(image * 4 * me.all + n) * me.D) = make_float2(carry[0], carry[1]);
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
      if (n_next == 0) carry[0] = carry[1] = 0.f;

      float sum[2][S];
      if (needs) {
        flow.settle(needs);
        UNROLL for (int i = 0; i < S; i++) sum[0][i] = first(here.out(i)), sum[1][i] = second(here.out(i));
      } else {
        UNROLL for (int i = 0; i < S; i++) sum[0][i] = my.D[0] * first(u[i]), sum[1][i] = my.D[1] * second(u[i]);
      }
      UNROLL for (int i = 0; i < S; i++) {
        const float C = bc[i / 2][2 + i % 2];
        here.out(i) = two(sum[0][i] + C * h[0][i], sum[1][i] + C * h[1][i]);
      }
      flow.leave(n, step++);
      n = n_next, image = image_next;
    }
    flow.finish(pair, y, step);
  }
}
