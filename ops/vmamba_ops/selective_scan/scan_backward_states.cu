// The backward kernel for more than one state; follows scan.cu, names as in scan_backward.cu. Rows are WARPS x SLOTS a
// round. A warp reads its own and gives dt, dt u and dout to all; then every warp does its states, EACH of them, of all
// the round's rows, so that the sums dB and dC over rows stay in registers. At each step warps are at rows of different
// warps, to whose sums over states they add in turn: no atomics, a fixed order.
constexpr int SEEN = WARPS * SLOTS, STATE_BYTES = 64;  // a row's saved states of one launch
constexpr int STEP = ITEMS == 8 ? 12 : ITEMS, ROW = LANES * STEP;  // of what is exchanged, as PAIRS and PAIR_ROW
static_assert(EACH <= 4 && LANES >= 4, "a slot's sums over four states are taken at once");
enum { DT, X, DY, DX, DDT, ARRAYS };  // what is exchanged: (ARRAYS, SEEN, ROW); the last two are sums over states

// Sums of four numbers over the slot by 2 + 1 + 1 exchanges: lane j gets that of number j % 4.
DI float total4(const float (&v)[4], int j) {
  const bool odd = j & 1, high = j & 2;
  const float a = (odd ? v[1] : v[0]) + __shfl_xor_sync(~0u, odd ? v[0] : v[1], 1);
  const float b = (odd ? v[3] : v[2]) + __shfl_xor_sync(~0u, odd ? v[2] : v[3], 1);
  float sum = (high ? b : a) + __shfl_xor_sync(~0u, high ? a : b, 2);
  UNROLL for (int d = 4; d < LANES; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
  return sum;
}
DI void get(const float* from, float (&v)[ITEMS]) {
  if constexpr (ITEMS % 4) UNROLL for (int i = 0; i < ITEMS; i++) v[i] = from[i];
  else UNROLL for (int i = 0; i < ITEMS; i += 4) {
    const float4 q = *(const float4*)(from + i);
    v[i] = q.x, v[i + 1] = q.y, v[i + 2] = q.z, v[i + 3] = q.w;
  }
}
DI void put(float* to, const float (&v)[ITEMS]) {
  if constexpr (ITEMS % 4) UNROLL for (int i = 0; i < ITEMS; i++) to[i] = v[i];
  else UNROLL for (int i = 0; i < ITEMS; i += 4) *(float4*)(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}

extern "C" __global__ void __launch_bounds__(THREADS, MINBLOCKS) scan_backward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  constexpr int STATES_AT = 2 * SEGMENT<IN> + SEGMENT<OUT>, SET = STATES_AT + STATE_BYTES;
  constexpr int STAGE = SLOTS * SET, OWN = STAGES * STAGE;
  const Place me(p);
  const Rows my(p, me, (float*)(memory + 128));
  const int j = me.j, states = me.states, tiles = (int)p.tiles;
  float *dA = my.end, *dD = dA + (int)p.rows * states, *dbias = dD + p.rows;
  char *zeros = memory, *staged = memory + p.staging;
  float* exchange = (float*)(staged + WARPS * OWN);
  float2* both = (float2*)(exchange + ARRAYS * SEEN * ROW);  // B and C of the tile, (states, PAIR_ROW)
  const auto seen = [&](int array, int row) { return exchange + (array * SEEN + row) * ROW + j * STEP; };
  if (threadIdx.x < 32) ((float*)zeros)[threadIdx.x] = 0.f;
  for (int i = threadIdx.x; i < (int)p.rows * (states + 2); i += THREADS) dA[i] = 0.f;
  __syncthreads();

  int next_tile = tiles - 1, next_round = 0, next = 0, now = 0;
  const auto advance = [&] {
    const int row = me.row(next_round, 0), count = next_tile < 0 ? 0 : me.count(row, next_tile);
    if (count) {
      const i64 at = me.start(row, next_tile);
      char* to = staged + me.warp * OWN + next * STAGE + me.slot * SET;
      prefetch<IN>(to, p.u + at, count, j), prefetch<IN>(to + SEGMENT<IN>, p.delta + at, count, j);
      prefetch<OUT>(to + 2 * SEGMENT<IN>, p.dout + at, count, j);
      if (next_tile)
        for (int n = j; n < states; n += LANES)
          copy4((float*)(to + STATES_AT) + n, p.saved + me.state(p, row, next_tile) + n);
    }
    commit();
    if (++next == STAGES) next = 0;
    if (++next_round == me.rounds) next_round = 0, next_tile--;
  };
  UNROLL for (int s = 0; s < STAGES - 1; s++) advance();

  for (int tile = tiles - 1; tile >= 0; tile--) {
    const int live_here = me.live(tile);
    fill(both, p, me, tile);
    float dB[EACH][ITEMS], dC[EACH][ITEMS];
    UNROLL for (int k = 0; k < EACH; k++) UNROLL for (int i = 0; i < ITEMS; i++) dB[k][i] = dC[k][i] = 0.f;
#pragma unroll 1
    for (int round = 0; round < me.rounds; round++) {
      wait<STAGES - 2>();
      __syncwarp();
      advance();
      const int mine = me.warp * SLOTS + me.slot, row = me.row(round, 0), safe = least(row, me.rows - 1);
      const int live = row < me.rows ? live_here : 0;
      const i64 start = me.start(row, tile);
      const auto own = [&](float (&u)[ITEMS], float (&dt)[ITEMS], float (&dy)[ITEMS], float (&slope)[ITEMS]) {
        const char* from = staged + me.warp * OWN + now * STAGE + me.slot * SET;
        fetch<IN>(from, p.u + start, zeros, j, live, u);
        fetch<IN>(from + SEGMENT<IN>, p.delta + start, zeros, j, live, dt);
        fetch<OUT>(from + 2 * SEGMENT<IN>, p.dout + start, zeros, j, live, dy);
        step_size(my.bias[safe], live, dt, dt, slope);
      };
      {
        float x[ITEMS], dt[ITEMS], dy[ITEMS], slope[ITEMS];
        own(x, dt, dy, slope);
        UNROLL for (int i = 0; i < ITEMS; i++) x[i] *= dt[i];
        put(seen(DT, mine), dt), put(seen(X, mine), x), put(seen(DY, mine), dy);
      }
      __syncthreads();
#pragma unroll 1
      for (int step = 0; step < WARPS; step++) {
        const int other = (me.warp + step) % WARPS, here = other * SLOTS + me.slot, there = round * SEEN + here;
        const bool on = there < me.rows;
        const int at = least(there, me.rows - 1) * states;
        const float* before_ = (const float*)(staged + other * OWN + now * STAGE + me.slot * SET + STATES_AT);
        float dt[ITEMS], x[ITEMS], dy[ITEMS], dx[ITEMS], ddt[ITEMS], dA_here[4] = {0.f, 0.f, 0.f, 0.f}, time = 0.f;
        get(seen(DT, here), dt), get(seen(X, here), x), get(seen(DY, here), dy);
        UNROLL for (int i = 0; i < ITEMS; i++) dx[i] = ddt[i] = 0.f, time += dt[i];
        UNROLL for (int k = 0; k < EACH; k++) {
          const int n = k * WARPS + me.warp;
          if (n >= states) break;
          const float A2 = my.A2[at + n], after = on ? my.carry[at + n] : 0.f;
          const float before = on && tile ? before_[n] : 0.f;
          const float2* pair = both + n * PAIR_ROW + j * PAIRS;
          float a[ITEMS], g[ITEMS], B[ITEMS], C[ITEMS];
          float h = j == 0 ? before : 0.f, e = j == LANES - 1 ? after : 0.f;
          const float product = exp2_(time * A2);
          UNROLL for (int i = 0; i < ITEMS; i++) {
            B[i] = pair[i].x * x[i];
            a[i] = exp2_(dt[i] * A2);
            h = a[i] * h + B[i];
          }
          UNROLL for (int i = ITEMS - 1; i >= 0; i--) C[i] = pair[i].y * dy[i], e = a[i] * (C[i] + e);
          compose_up(product, h, j), compose_down(product, e, j);
          if (j == 0 && on) my.carry[at + n] = e;
          h = __shfl_up_sync(~0u, h, 1, LANES), e = __shfl_down_sync(~0u, e, 1, LANES);
          if (j == 0) h = before;
          if (j == LANES - 1) e = after;
          UNROLL for (int i = ITEMS - 1; i >= 0; i--) g[i] = C[i] + e, e = a[i] * g[i];
          UNROLL for (int i = 0; i < ITEMS; i++) {
            const float q = a[i] * g[i] * h;
            h = a[i] * h + B[i];
            dA_here[k] += q * dt[i], ddt[i] += A2 * q, dx[i] += g[i] * pair[i].x;
            dB[k][i] += g[i] * x[i], dC[k][i] += dy[i] * h;
          }
        }
        const float sum = total4(dA_here, j);
        if (j < EACH && j * WARPS + me.warp < states && on) dA[at + j * WARPS + me.warp] += sum;
        if (step) {
          float o[ITEMS];
          get(seen(DX, here), o);
          UNROLL for (int i = 0; i < ITEMS; i++) dx[i] += o[i];
          get(seen(DDT, here), o);
          UNROLL for (int i = 0; i < ITEMS; i++) ddt[i] += o[i];
        }
        put(seen(DX, here), dx), put(seen(DDT, here), ddt);
        __syncthreads();
      }
      float u[ITEMS], dt[ITEMS], dy[ITEMS], slope[ITEMS], dx[ITEMS], ddt[ITEMS], dD_here = 0.f, dbias_here = 0.f;
      own(u, dt, dy, slope);
      get(seen(DX, mine), dx), get(seen(DDT, mine), ddt);
      if (++now == STAGES) now = 0;
      const float D = my.D[safe];
      UNROLL for (int i = 0; i < ITEMS; i++) {
        dD_here += dy[i] * u[i];
        ddt[i] = (ddt[i] * LN2 + u[i] * dx[i]) * slope[i];
        dbias_here += ddt[i];
        dx[i] = dt[i] * dx[i] + D * dy[i];
      }
      const float pairs[4] = {dD_here, dbias_here, 0.f, 0.f}, sum = total4(pairs, j);
      if (j < 2 && row < me.rows) dD[j * (int)p.rows + safe] += sum;
      const int count = me.count(row, tile);  // what was given to all serves as the way out
      store<GRAD>(p.du + start, (char*)(exchange + (DT * SEEN + mine) * ROW), count, j, live, dx);
      store<GRAD>(p.ddelta + start, (char*)(exchange + (X * SEEN + mine) * ROW), count, j, live, ddt);
    }
    __syncthreads();
    UNROLL for (int k = 0; k < EACH; k++) {
      UNROLL for (int i = 0; i < ITEMS; i++)
        UNROLL for (int d = LANES; d < 32; d *= 2) {
          dB[k][i] += __shfl_xor_sync(~0u, dB[k][i], d), dC[k][i] += __shfl_xor_sync(~0u, dC[k][i], d);
        }
      const int n = k * WARPS + me.warp;
      if (n < states && me.slot == 0) {
        put(exchange + 2 * n * TILE + j * ITEMS, dB[k]), put(exchange + (2 * n + 1) * TILE + j * ITEMS, dC[k]);
      }
    }
    __syncthreads();
    const i64 images = gridDim.x / (u32)p.splits / p.groups;
    const i64 unit = (me.split * images + me.image) * p.groups + me.group;
    for (int i = threadIdx.x; i < states * 2 * TILE; i += THREADS) {
      const int n = i / (2 * TILE), t = tile * TILE + i % TILE;
      float* to = i / TILE % 2 ? p.dC : p.dB;
      if (t < me.length) to[(unit * p.all_states + p.first_state + n) * me.length + t] = exchange[i];
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < me.rows * states; i += THREADS)
    p.dA[(me.image * me.dim + me.channel + i / states) * p.all_states + p.first_state + i % states] = dA[i];
  for (int i = threadIdx.x; i < me.rows; i += THREADS) {
    const i64 at = me.image * me.dim + me.channel + i;
    if (!SLICED || p.first_state == 0) p.dD[at] = dD[i], p.dbias[at] = dbias[i];
    else p.dbias[at] += dbias[i];
  }
}
