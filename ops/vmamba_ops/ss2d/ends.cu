// The first pass over maps that are cut into segments; follows maps.cu, whose whole maps it does not take. A block walks
// a segment of a route and of the same route backwards, from a state of zero, and writes what the segment does to a
// state that comes in: h -> product h + end. DOWN: for the backward kernel, whose walks begin at a route's end.
// Shared memory: for each of the two routes two stages of P, then two tiles of every warp. It takes fewer registers than
// the kernels after it, so that more blocks fit (HELD).
extern "C" __global__ void __launch_bounds__(THREADS, HELD) ss2d_ends(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  const Place me(p);
  const int q = me.q, k = me.pair + 2 * me.back;
  const bool rising = DOWN ? me.back : !me.back;
  const Walk walk(me, me.pair, (u32)p.magic);
  const Raw* map = (DOWN ? p.dy : p.x) + me.first * me.L * me.D;
  char* room = memory + STAGES + me.back * CW * 2 * MAP;
  Route my;
  my.load(p, me, k);
  clear(memory, STAGES);
  Rows rows(p, me, memory);
  rows.route = k;
  __syncthreads();
  if (me.segment == (rising ? me.segments - 1 : 0)) return;  // the walk's last: nothing comes after it
  const auto bring = [&](int n) {
    const int tile = me.tile(n, rising);
    Pieces(walk, tile, me).get(map, room + (n & 1) * MAP, me.thread, 2 * MAP);
    rows.fetch(walk, 0, tile, n);
    commit();
  };
  bring(0);
  rows.store(0);

  float carry[2] = {0.f, 0.f}, total[2] = {0.f, 0.f};
#pragma unroll 1
  for (int n = 0; n < me.tiles; n++) {
    wait<0>();
    group(me.back);
    if (n + 1 < me.tiles) bring(n + 1);
    const char* from = room + (n & 1) * MAP + me.warp * 2 * MAP + me.word;
    float z[NT][4], bc[NT][4];
    project(my, row_of(rows.stage(n), me.lane), q, z, bc);
    UNROLL for (int e = 0; e < 2; e++) {
      float sum = 0.f, end = q == (DOWN ? 3 : 0) ? carry[e] : 0.f;
      UNROLL for (int j = 0; j < S; j++) {
        const int i = DOWN ? S - 1 - j : j, t = i / 2, o = i % 2;
        const Two v = *(const Two*)(from + i * ROW);
        const float s = softplus(z[t][2 * e + o]), a = exp2_(s * my.A[e]), u = e ? second(v) : first(v);
        end = DOWN ? a * (u * bc[t][2 + o] + end) : a * end + s * (u * bc[t][o]);
        sum += s;
      }
      const float product = exp2_(sum * my.A[e]);
      total[e] += sum;
      if (DOWN) compose_down(product, end, carry[e], q);
      else compose_up(product, end, carry[e], q);
    }
    rows.store(n + 1);
  }
  UNROLL for (int e = 0; e < 2; e++) total[e] = both(total[e]), carry[e] *= DOWN ? 1.f : LN2;
  float4* to = (float4*)(p.ends + (((me.first * 4 + k) * me.segments + me.segment) * me.D + me.channel) * 2);
  if (q == 0) *to = make_float4(exp2_(total[0] * my.A[0]), carry[0], exp2_(total[1] * my.A[1]), carry[1]);
}
