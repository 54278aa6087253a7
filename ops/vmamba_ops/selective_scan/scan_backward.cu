// The backward kernel for one state, and the sum of any backward's parts; follows scan.cu. With
// g[t] = C[t] dout[t] + a[t+1] g[t+1] the adjoint of h, the carry is a[t] g[t] of the tile after this one. A warp's
// shared memory: STAGES x NROW x SLOTS segments of u, of delta, of dout and of saved states, then NROW x SLOTS segments
// of du and of ddelta. Sums over rows keep a fixed order: each warp has its own in registers.
constexpr int STATE_BYTES = 16;  // a row's saved state

// Sums of three numbers over the slot with 2 + 1 + 1 ... exchanges: lane 0 gets that of v0, lane 1 of v1, lane 2 of v2.
DI float total3(float v0, float v1, float v2, int j) {
  const bool odd = j & 1, high = j & 2;
  float v = (odd ? v1 : v0) + __shfl_xor_sync(~0u, odd ? v0 : v1, 1);
  v2 += __shfl_xor_sync(~0u, v2, 1);
  v = (high ? v2 : v) + __shfl_xor_sync(~0u, high ? v : v2, 2);
  UNROLL for (int d = 4; d < LANES; d *= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}
// Where a lane's item lies in the shared sums: lanes next to each other, 16 bytes at a time where ITEMS allows.
DI int place(int lane, int i) { return ITEMS % 4 ? i * 32 + lane : (i / 4 * 32 + lane) * 4 + i % 4; }
DI void keep(float* sums, int lane, const float (&v)[ITEMS]) {
  if (ITEMS % 4) UNROLL for (int i = 0; i < ITEMS; i++) sums[place(lane, i)] = v[i];
  else UNROLL for (int i = 0; i < ITEMS / 4 * 4; i += 4)
    *(float4*)(sums + place(lane, i)) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}

extern "C" __global__ void __launch_bounds__(THREADS, MINBLOCKS) scan_backward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  constexpr int STATES_AT = 2 * SEGMENT<IN> + SEGMENT<OUT>, SET = STATES_AT + STATE_BYTES;
  constexpr int STAGE = NROW * SLOTS * SET;
  const Place me(p);
  const Rows my(p, me, (float*)(memory + 128));
  const int j = me.j, tiles = (int)p.tiles;
  float *dA = my.end, *dD = dA + p.rows, *dbias = dD + p.rows;
  constexpr int OWN = STAGES * STAGE + NROW * SLOTS * 2 * SEGMENT<GRAD>;
  char *zeros = memory, *staged = memory + p.staging + me.warp * OWN;
  char* outgoing = staged + STAGES * STAGE + me.slot * 2 * SEGMENT<GRAD>;
  float* sums = (float*)(memory + p.staging + WARPS * OWN);  // (warp, dB or dC, slot, position)
  if (threadIdx.x < 32) ((float*)zeros)[threadIdx.x] = 0.f;
  for (int i = threadIdx.x; i < 3 * (int)p.rows; i += THREADS) dA[i] = 0.f;
  __syncthreads();

  int next_tile = tiles - 1, next_round = 0, next = 0, now = 0;
  const auto advance = [&] {
    if (next_tile >= 0) UNROLL for (int r = 0; r < NROW; r++) {
      const int row = me.row(next_round, r), count = me.count(row, next_tile);
      const i64 at = me.start(row, next_tile);
      char* to = staged + next * STAGE + (r * SLOTS + me.slot) * SET;
      prefetch<IN>(to, p.u + at, count, j), prefetch<IN>(to + SEGMENT<IN>, p.delta + at, count, j);
      prefetch<OUT>(to + 2 * SEGMENT<IN>, p.dout + at, count, j);
      if (next_tile && row < me.rows && j == 0) copy4(to + STATES_AT, p.saved + me.state(p, row, next_tile));
    }
    commit();
    if (++next == STAGES) next = 0;
    if (++next_round == me.rounds) next_round = 0, next_tile--;
  };
  UNROLL for (int s = 0; s < STAGES - 1; s++) advance();

  for (int tile = tiles - 1; tile >= 0; tile--) {
    const int live_here = me.live(tile), position = tile * TILE + j * ITEMS;
    const Raw<IN>* B_here = p.B + me.image * p.B_image + me.group * p.B_group + position;
    const Raw<IN>* C_here = p.C + me.image * p.C_image + me.group * p.C_group + position;
    float B[ITEMS], C[ITEMS], dB[ITEMS], dC[ITEMS];
    sequence<IN>(B_here, live_here, B), sequence<IN>(C_here, live_here, C);
    UNROLL for (int i = 0; i < ITEMS; i++) dB[i] = dC[i] = 0.f;
#pragma unroll 1
    for (int round = 0; round < me.rounds; round++) {
      wait<STAGES - 2>();
      __syncwarp();
      advance();
      float dt[NROW][ITEMS], u[NROW][ITEMS], dy[NROW][ITEMS], slope[NROW][ITEMS];
      float dA_row[NROW], dx[NROW][ITEMS], ddt[NROW][ITEMS];  // adjoints of dt u, and of dt but through dt u
      UNROLL for (int r = 0; r < NROW; r++) {
        const int row = me.row(round, r), at = least(row, me.rows - 1), live = row < me.rows ? live_here : 0;
        const char* from = staged + now * STAGE + (r * SLOTS + me.slot) * SET;
        const i64 start = me.start(row, tile);
        fetch<IN>(from, p.u + start, zeros, j, live, u[r]);
        fetch<IN>(from + SEGMENT<IN>, p.delta + start, zeros, j, live, dt[r]);
        fetch<OUT>(from + 2 * SEGMENT<IN>, p.dout + start, zeros, j, live, dy[r]);
        step_size(my.bias[at], live, dt[r], dt[r], slope[r]);
        UNROLL for (int i = 0; i < ITEMS; i++) dx[r][i] = ddt[r][i] = 0.f;
      }
      const char* states_here = staged + now * STAGE + me.slot * SET + STATES_AT;
      if (++now == STAGES) now = 0;
      UNROLL for (int r = 0; r < NROW; r++) {
        const int row = me.row(round, r), at = least(row, me.rows - 1);
        const float A2 = my.A2[at], A = A2 * LN2, after = row < me.rows ? my.carry[at] : 0.f;
        const float before = tile && row < me.rows ? *(const float*)(states_here + r * SLOTS * SET) : 0.f;
        float a[ITEMS], g[ITEMS], product = 1.f, h = j == 0 ? before : 0.f, e = j == LANES - 1 ? after : 0.f;
        UNROLL for (int i = 0; i < ITEMS; i++) {
          a[i] = exp2_(dt[r][i] * A2);
          h = a[i] * h + dt[r][i] * u[r][i] * B[i];
          product *= a[i];
        }
        UNROLL for (int i = ITEMS - 1; i >= 0; i--) e = a[i] * (dy[r][i] * C[i] + e);
        compose_up(product, h, j), compose_down(product, e, j);
        if (j == 0 && row < me.rows) my.carry[at] = e;
        h = __shfl_up_sync(~0u, h, 1, LANES), e = __shfl_down_sync(~0u, e, 1, LANES);
        if (j == 0) h = before;
        if (j == LANES - 1) e = after;
        UNROLL for (int i = ITEMS - 1; i >= 0; i--) g[i] = dy[r][i] * C[i] + e, e = a[i] * g[i];
        dA_row[r] = 0.f;
        UNROLL for (int i = 0; i < ITEMS; i++) {
          const float x = dt[r][i] * u[r][i], q = a[i] * g[i] * h;
          h = a[i] * h + x * B[i];
          dA_row[r] += q * dt[r][i], ddt[r][i] += A * q, dx[r][i] += g[i] * B[i];
          dB[i] += g[i] * x, dC[i] += dy[r][i] * h;
        }
      }
      UNROLL for (int r = 0; r < NROW; r++) {
        const int row = me.row(round, r), at = least(row, me.rows - 1), count = me.count(row, tile);
        const int live = row < me.rows ? live_here : 0;
        const float D = my.D[at];
        float dD_here = 0.f, dbias_here = 0.f;
        UNROLL for (int i = 0; i < ITEMS; i++) {
          dD_here += dy[r][i] * u[r][i];
          ddt[r][i] = (ddt[r][i] + u[r][i] * dx[r][i]) * slope[r][i];
          dbias_here += ddt[r][i];
          dx[r][i] = dt[r][i] * dx[r][i] + D * dy[r][i];
        }
        const float sum = total3(dD_here, dbias_here, dA_row[r], j);
        if (j < 3 && row < me.rows) dD[(j < 2 ? j : -1) * (int)p.rows + at] += sum;
        char* segment = outgoing + r * SLOTS * 2 * SEGMENT<GRAD>;
        const i64 start = me.start(row, tile);
        store<GRAD>(p.du + start, segment, count, j, live, dx[r]);
        store<GRAD>(p.ddelta + start, segment + SEGMENT<GRAD>, count, j, live, ddt[r]);
      }
    }
    keep(sums + me.warp * 2 * ALL, me.lane, dB), keep(sums + (me.warp * 2 + 1) * ALL, me.lane, dC);
    __syncthreads();
    const i64 images = gridDim.x / (u32)p.splits / p.groups;
    for (int i = threadIdx.x; i < 2 * TILE; i += THREADS) {
      const int which = i / TILE, at = i % TILE, t = tile * TILE + at;
      float sum = 0.f;
      for (int w = 0; w < WARPS; w++)
        UNROLL for (int s = 0; s < SLOTS; s++)
          sum += sums[(w * 2 + which) * ALL + place(s * LANES + at / ITEMS, at % ITEMS)];
      const i64 unit = (me.split * images + me.image) * p.groups + me.group;
      if (t < me.length) (which ? p.dC : p.dB)[unit * me.length + t] = sum;
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < me.rows; i += THREADS) {
    const i64 at = me.image * me.dim + me.channel + i;
    p.dA[at] = dA[i], p.dD[at] = dD[i], p.dbias[at] = dbias[i];
  }
}

// Jobs one after the other: to[i] = sum over c of from[c * size + i], in an order that the shapes alone give. A block
// has 256 / shares numbers, whose c are dealt out to `shares` threads; end: the block after the job's last.
struct Sums {
  struct Job { const float* from; void* to; i64 count, size, type, shares, end; } job[5];
};
extern "C" __global__ void __launch_bounds__(256) scan_sums(const __grid_constant__ Sums p) {
  __shared__ float part[256];
  int block = blockIdx.x, n = 0;
  while (block >= p.job[n].end) n++;
  const auto& job = p.job[n];
  if (n) block -= (int)p.job[n - 1].end;
  const int shares = (int)job.shares, lanes = 256 / shares, lane = threadIdx.x % lanes, share = threadIdx.x / lanes;
  const i64 i = (i64)block * lanes + lane;
  float sum = 0.f;
  if (i < job.size) {
#pragma unroll 8
    for (i64 c = share; c < job.count; c += shares) sum += job.from[c * job.size + i];
  }
  if (shares > 1) {
    part[threadIdx.x] = sum;
    __syncthreads();
    if (share) return;
    for (int s = 1; s < shares; s++) sum += part[s * lanes + lane];
  }
  if (i >= job.size) return;
  if (job.type == F32) ((float*)job.to)[i] = sum;
  else ((u16*)job.to)[i] = job.type == F16 ? rounded<F16>(sum) : rounded<BF16>(sum);
}
