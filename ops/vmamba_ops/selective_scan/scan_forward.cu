// The forward kernel; follows scan.cu. A warp's shared memory: STAGES x NROW x SLOTS segments of u, of delta, then
// NROW x SLOTS segments of out; behind those of all warps, B and C of the tile where there are several states.
extern "C" __global__ void __launch_bounds__(THREADS, MINBLOCKS) scan_forward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  constexpr int PAIR = 2 * SEGMENT<IN>, STAGE = NROW * SLOTS * PAIR;
  const Place me(p);
  const Rows my(p, me, (float*)(memory + 128));
  const int j = me.j, states = me.states, tiles = (int)p.tiles;
  char *zeros = memory, *staged = memory + p.staging + me.warp * (STAGES * STAGE + NROW * SLOTS * SEGMENT<OUT>);
  char* outgoing = staged + STAGES * STAGE + me.slot * SEGMENT<OUT>;
  float2* both = (float2*)(memory + p.staging + WARPS * (STAGES * STAGE + NROW * SLOTS * SEGMENT<OUT>));
  if (threadIdx.x < 32) ((float*)zeros)[threadIdx.x] = 0.f;
  __syncthreads();

  int next_tile = 0, next_round = 0, next = 0, now = 0;
  const auto advance = [&] {
    if (next_tile < tiles) UNROLL for (int r = 0; r < NROW; r++) {
      const int row = me.row(next_round, r), count = me.count(row, next_tile);
      const i64 at = me.start(row, next_tile);
      char* to = staged + next * STAGE + (r * SLOTS + me.slot) * PAIR;
      prefetch<IN>(to, p.u + at, count, j), prefetch<IN>(to + SEGMENT<IN>, p.delta + at, count, j);
    }
    commit();
    if (++next == STAGES) next = 0;
    if (++next_round == me.rounds) next_round = 0, next_tile++;
  };
  UNROLL for (int s = 0; s < STAGES - 1; s++) advance();

  for (int tile = 0; tile < tiles; tile++) {
    const int live_here = me.live(tile), position = tile * TILE + j * ITEMS;
    float B[ITEMS], C[ITEMS];
    if (ONE) {
      sequence<IN>(p.B + me.image * p.B_image + me.group * p.B_group + position, live_here, B);
      sequence<IN>(p.C + me.image * p.C_image + me.group * p.C_group + position, live_here, C);
    } else {
      __syncthreads();
      fill(both, p, me, tile);
      __syncthreads();
    }
#pragma unroll 1
    for (int round = 0; round < me.rounds; round++) {
      wait<STAGES - 2>();
      __syncwarp();
      advance();
      float dt[NROW][ITEMS], x[NROW][ITEMS], y[NROW][ITEMS], time[NROW];
      UNROLL for (int r = 0; r < NROW; r++) {
        const int row = me.row(round, r), at = least(row, me.rows - 1), live = row < me.rows ? live_here : 0;
        const char* from = staged + now * STAGE + (r * SLOTS + me.slot) * PAIR;
        const i64 start = me.start(row, tile);
        float slope[ITEMS];
        fetch<IN>(from, p.u + start, zeros, j, live, y[r]);
        fetch<IN>(from + SEGMENT<IN>, p.delta + start, zeros, j, live, dt[r]);
        step_size(my.bias[at], live, dt[r], dt[r], slope);
        const float D = my.D[at];
        time[r] = 0.f;
        UNROLL for (int i = 0; i < ITEMS; i++) x[r][i] = dt[r][i] * y[r][i], y[r][i] *= D, time[r] += dt[r][i];
      }
      if (++now == STAGES) now = 0;
#pragma unroll 1
      for (int n = 0; n < states; n++) {
        if (!ONE) UNROLL for (int i = 0; i < ITEMS; i++) {
          const float2 pair = both[n * PAIR_ROW + j * PAIRS + i];
          B[i] = pair.x, C[i] = pair.y;
        }
        UNROLL for (int r = 0; r < NROW; r++) {
          const int row = me.row(round, r), at = least(row, me.rows - 1) * states + n;
          const float A2 = my.A2[at], before = my.carry[at];
          float a[ITEMS], product = ONE ? 1.f : exp2_(time[r] * A2), h = j == 0 ? before : 0.f;
          UNROLL for (int i = 0; i < ITEMS; i++) {
            a[i] = exp2_(dt[r][i] * A2);
            h = a[i] * h + x[r][i] * B[i];
            if (ONE) product *= a[i];
          }
          compose_up(product, h, j);
          if (j == LANES - 1 && row < me.rows) my.carry[at] = h;
          h = __shfl_up_sync(~0u, h, 1, LANES);
          if (j == 0) h = before;
          UNROLL for (int i = 0; i < ITEMS; i++) {
            h = a[i] * h + x[r][i] * B[i];
            y[r][i] += C[i] * h;
          }
        }
      }
      __syncwarp();
      UNROLL for (int r = 0; r < NROW; r++) {
        const int row = me.row(round, r), count = me.count(row, tile);
        if (p.saved && tile + 1 < tiles && row < me.rows)
          for (int n = j; n < states; n += LANES) p.saved[me.state(p, row, tile + 1) + n] = my.carry[row * states + n];
        store<OUT>(p.out + me.start(row, tile), outgoing + r * SLOTS * SEGMENT<OUT>, count, j,
                   row < me.rows ? live_here : 0, y[r]);
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < me.rows * states; i += THREADS)
    p.last[(me.image * me.dim + me.channel + i / states) * p.all_states + p.first_state + i % states] = my.carry[i];
}
