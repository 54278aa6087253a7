// The backward kernel; follows maps.cu. It walks every route from its end. Shared memory: two stages of P for each of
// the two routes, the counters, BUFFERS times every warp's part of dP of a tile, which the route's warps add up one
// step later, then the maps.
//
// With g the gradient of the state, h = a h_before + s u B, a = exp(s A), s = softplus(z) = dt:
//   g = C dy + a_next g_next,  du = g s B + D dy,  dB = sum g s u,  dC = sum dy h,  dA += g s a h_before,
//   dz = g (A a h_before + u B) sigmoid(z),  d dt_rows = W dz,  dW += dz P,  d bias += dz.
constexpr int PART_ROW = RQ + 4, PART = TILE * PART_ROW;  // floats; banks differ from row to row
constexpr int BUFFERS = IN == F32 ? 1 : 2;  // for parts: float has no room for two on every GPU

// A slope of softplus (0 to 1) of each of a lane's channels, with the bits that 16-bit gradients need.
#if IN == 0
typedef float2 Slopes;
DI Slopes slopes(float a, float b) { return make_float2(a, b); }
DI float slope(Slopes v, int e) { return e ? v.y : v.x; }
#else
typedef u32 Slopes;
DI Slopes slopes(float a, float b) { return pack<F16>(a, b); }
DI float slope(Slopes v, int e) { return e ? high<F16>(v) : low<F16>(v); }
#endif

struct alignas(4 * sizeof(Raw)) Four {
  Two a, b;
};
struct Duty {  // a tile of dP that waits to be added up
  int image, tile, parity;
};
DI void add_up(const Place& me, const Walk& w, const float* parts, Raw* dP, const Duty& d) {
  const float* from = parts + (d.parity % BUFFERS * 2 + me.back) * CW * PART;
  constexpr int FOURS = TILE * RQ / 4;
  UNROLL for (int n = 0; n < (FOURS + HALF - 1) / HALF; n++) {
    const u32 four = me.thread + n * HALF, row = four / (RQ / 4), column = four % (RQ / 4) * 4;
    const u32 c = d.tile * TILE + (w.back ? TILE - 1 - row : row);
    if (four >= FOURS || c >= w.L) continue;
    float4 sum = {0.f, 0.f, 0.f, 0.f};
    UNROLL for (int i = 0; i < CW; i++) {
      const float4 v = *(const float4*)(from + i * PART + row * PART_ROW + column);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    *(Four*)(dP + (w.at(c) * (4 * RQ) + column)) = {two(sum.x, sum.y), two(sum.z, sum.w)};
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, MINBLOCKS) ss2d_backward(const __grid_constant__ Problem p) {
  extern __shared__ __align__(16) char memory[];
  const Place me(p);
  const int N = me.tiles, g = me.g, q = me.q, images = (int)(me.last - me.first);
  const bool rising = me.back;
  const u32 row_bytes = me.L * 4 * RQ * (u32)sizeof(Raw);
  float* parts = (float*)(memory + STAGES + COUNTERS);
  clear(memory, STAGES + COUNTERS);
  Flow<2> flow(p, me, memory, (char*)(parts + BUFFERS * 2 * CW * PART));
  __syncthreads();
  const u32 sB = g == R % 8 ? pack<M>(1.f, 1.f) : 0u, sC = g == R % 8 + 1 ? pack<M>(1.f, 1.f) : 0u;

  int step = 0;
  for (int pair = me.pair; pair < me.pairs; pair++) {
    const int k = pair + 2 * me.back;
    const Walk walk(me, pair, (u32)p.magic);
    Route my;
    my.load(p, me, k);
    u32 wT[KT][2][TERMS];  // W with channels as the inner dimension of a product
    UNROLL for (int kt = 0; kt < KT; kt++)
      UNROLL for (int e = 0; e < 2; e++) {
        const int r = 8 * kt + g, c = me.channel - 2 * g + 4 * q + e;
        const float* from = p.W + ((i64)k * me.D + c) * R + r;
        split(r < R ? from[0] : 0.f, r < R ? from[2 * R] : 0.f, wT[kt][e]);
      }
    float dW[KT][4], dA[2] = {0.f, 0.f}, dbias[2] = {0.f, 0.f}, dD[2] = {0.f, 0.f};
    UNROLL for (int kt = 0; kt < KT; kt++) UNROLL for (int j = 0; j < 4; j++) dW[kt][j] = 0.f;
    Raw* dx = p.dx + (p.walks == APART ? pair * p.images * me.L * me.D : 0);
    Raw* dP = p.dP + (me.block * p.images + me.first) * me.L * (4 * RQ) + k * RQ;
    const float* states = p.states + ((me.first * 4 + k) * me.all + me.before() + N - 1) * me.D + me.channel;
    float carry[2];
    Duty duty = {-1, 0, 0};
    flow.start(walk, pair, dx, me.tile(0, rising), step);
    arrive(p, me, k, rising, carry);
    float2 state = *(const float2*)states;
    int n = 0;
#pragma unroll 1
    for (int image = 0; image < images;) {
      const int n_next = n + 1 < N ? n + 1 : 0, image_next = image + (n_next == 0), parity = step & 1;
      const int needs = flow.needs(n, step), tile = me.tile(n, rising);
      const float before[2] = {state.x, state.y};
      const Tile here = flow.enter(walk, image, tile, n, step, needs);
      if (image_next < images) {
        flow.fetch(walk, image_next, me.tile(n_next, rising), step + 1);
        state = *(const float2*)(states + (i64)(image_next * 4 * me.all - n_next) * me.D);
      }
      commit();
      if (duty.image >= 0) add_up(me, walk, parts, of_image(dP, duty.image, row_bytes), duty);
      if (BUFFERS == 1) group(me.back);
      duty = {image, tile, parity};

      const u16* rows = row_of(flow.rows.stage(step), me.lane);
      float a[2][S], s[2][S], h[2][S], after[2];
      Slopes rise[S];
      Two BC[S];  // exact: P's own numbers
      {
        float z[NT][4], bc[NT][4];
        project(my, rows, q, z, bc);
        UNROLL for (int i = 0; i < S; i++) {
          float rise_[2];
          UNROLL for (int e = 0; e < 2; e++) {
            const float z_ = z[i / 2][2 * e + i % 2], s_ = softplus(z_);
            rise_[e] = exp2_(z_ - s_);
            a[e][i] = exp2_(s_ * my.A[e]);
            s[e][i] = s_ * LN2;
          }
          rise[i] = slopes(rise_[0], rise_[1]);
          BC[i] = two(bc[i / 2][i % 2], bc[i / 2][2 + i % 2]);
        }
      }
      UNROLL for (int e = 0; e < 2; e++) {
        float product = 1.f, local = q == 0 ? before[e] : 0.f, back = q == 3 ? carry[e] : 0.f, unused = before[e];
        UNROLL for (int i = 0; i < S; i++) {
          const Two u = here.x(i);
          h[e][i] = s[e][i] * ((e ? second(u) : first(u)) * first(BC[i]));
          local = a[e][i] * local + h[e][i];
          product *= a[e][i];
        }
        UNROLL for (int i = S - 1; i >= 0; i--) {
          const Two gy = here.dy(i);
          back = a[e][i] * ((e ? second(gy) : first(gy)) * second(BC[i]) + back);
        }
        float state = compose_up(product, local, unused, q);
        after[e] = compose_down(product, back, carry[e], q);
        UNROLL for (int i = 0; i < S; i++) h[e][i] = state = a[e][i] * state + h[e][i];
      }
      if (n_next == 0) carry[0] = carry[1] = 0.f;
      if (needs) flow.settle(needs);

      float* part = parts + ((parity % BUFFERS * 2 + me.back) * CW + me.warp) * PART;
      UNROLL for (int pairs = NT / 2 - 1; pairs >= 0; pairs--) {
        u32 dz[2][2][TERMS], db[2][TERMS], dc[2][TERMS];  // [n-tile][channel], and sums over the lane's channels
        UNROLL for (int half = 1; half >= 0; half--) {
          const int t = 2 * pairs + half;
          float dz_[2][2], db_[2] = {0.f, 0.f}, dc_[2] = {0.f, 0.f};
          UNROLL for (int o = 1; o >= 0; o--) {
            const int i = 2 * t + o;
            if (i >= S) {
              dz_[0][o] = dz_[1][o] = 0.f;
              continue;
            }
            const float B = first(BC[i]), C = second(BC[i]);
            const Two u = here.x(i), gy = here.dy(i);
            float du[2] = {my.D[0] * first(gy), my.D[1] * second(gy)};
            if (needs) {
              const Two old = here.out(i);
              du[0] = first(old), du[1] = second(old);
            }
            UNROLL for (int e = 0; e < 2; e++) {
              const float u_ = e ? second(u) : first(u), gy_ = e ? second(gy) : first(gy);
              const float grad = C * gy_ + after[e], gs = grad * s[e][i], uB = u_ * B;
              const float kept = h[e][i] - s[e][i] * uB;
              after[e] = a[e][i] * grad;
              du[e] += gs * B;
              dz_[e][o] = grad * (my.A[e] * kept + uB) * slope(rise[i], e);
              dA[e] += gs * kept, dbias[e] += dz_[e][o];
              if (k == 0) dD[e] += gy_ * u_;
              db_[o] += gs * u_, dc_[o] += gy_ * h[e][i];
            }
            here.out(i) = two(du[0], du[1]);
          }
          split(dz_[0][0], dz_[0][1], dz[half][0]), split(dz_[1][0], dz_[1][1], dz[half][1]);
          split(db_[0], db_[1], db[half]), split(dc_[0], dc_[1], dc[half]);
        }
        // dP of 16 positions: channels are summed by products, whose left side has positions as rows
        const int p0 = (g >> 1) * S + 4 * pairs + (g & 1), p1 = p0 + 2;
        u32 tz[2][2][TERMS];
        UNROLL for (int half = 0; half < 2; half++)
          UNROLL for (int term = 0; term < TERMS; term++)
            tz[half][0][term] = transposed(dz[half][0][term]), tz[half][1][term] = transposed(dz[half][1][term]);
        UNROLL for (int kt = 0; kt < KT; kt++) {
          float c[4] = {0.f, 0.f, 0.f, 0.f};
          UNROLL for (int i = 0; i < TERMS; i++)
            UNROLL for (int j = 0; i + j < TERMS; j++)
              if (kt * 8 < R)
                mma16<M>(c, tz[0][0][i], tz[1][0][i], tz[0][1][i], tz[1][1][i], wT[kt][0][j], wT[kt][1][j], c);
          if (kt == R / 8) UNROLL for (int i = 0; i < TERMS; i++)
            mma16<M>(c, transposed(db[0][i]), transposed(db[1][i]), transposed(dc[0][i]), transposed(dc[1][i]), sB, sC,
                     c);
          const int r = 8 * kt + 2 * q;
          *(float2*)(part + p0 * PART_ROW + r) = make_float2(c[0], c[1]);
          if (S % 2 == 0 || pairs == 0 || !(g & 1)) *(float2*)(part + p1 * PART_ROW + r) = make_float2(c[2], c[3]);
        }
        UNROLL for (int kt = 0; kt < (R + 7) / 8; kt++)
          UNROLL for (int j = 0; j < TERMS; j++) {
            u32 P[4];
            matrices<true>(P, rows + j * PLANE + kt * 8);
            UNROLL for (int i = 0; i + j < TERMS; i++)
              mma16<M>(dW[kt], dz[0][0][i], dz[0][1][i], dz[1][0][i], dz[1][1][i], P[2 * pairs], P[2 * pairs + 1],
                       dW[kt]);
          }
      }
      flow.leave(n, step++);
      n = n_next, image = image_next;
    }
    group(me.back);
    add_up(me, walk, parts, of_image(dP, duty.image, row_bytes), duty);
    flow.finish(pair, dx, step);

    const i64 images_of = blockIdx.x;
    UNROLL for (int kt = 0; kt < KT; kt++) {
      const int r = 8 * kt + 2 * q;
      if (r >= R) continue;
      float* to = p.dW + ((images_of * 4 + k) * me.D + me.channel) * R + r;
      *(float2*)to = make_float2(dW[kt][0], dW[kt][1]), *(float2*)(to + R) = make_float2(dW[kt][2], dW[kt][3]);
    }
    UNROLL for (int e = 0; e < 2; e++) {
      dbias[e] = both(dbias[e]), dA[e] = both(dA[e]) * my.A[e], dD[e] = both(dD[e]);
      float* to = p.sums + (images_of * 12 + k) * me.D + me.channel + e;
      if (q == 0) to[0] = dbias[e], to[4 * me.D] = dA[e], to[8 * me.D] = dD[e];
    }
  }
}
