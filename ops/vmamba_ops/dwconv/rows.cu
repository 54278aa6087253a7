// Depthwise 3 x 3 convolution with padding 1 of a channels-last map, then SiLU, forward and backward, for NVRTC: no
// header. It follows ptx.cu in the source text and is followed by forward.cu or backward.cu.
//
// A block has 32 channels of a few images side by side, or of a tile of a wide map, and walks down their rows, which
// come to shared memory by cp.async STAGES - 1 ahead. A thread has 2 channels of 7 neighbouring positions (a slot; the
// maps of images of 224 pixels are whole slots) and their 3 x 3 neighbourhoods in registers: a row brings one new line
// of 9, and nothing is read from memory twice but the rows where strips of a map meet.
//
// Macros: THREADS; IN (0 float, 1 half, 2 bfloat16); BIAS; WIDE: 8 channels at a time may be copied; MASK: some
// positions are another block's or past the end of a row; STAGES; BLOCKS: that a multiprocessor shall hold.
constexpr int P = 7, C = 32, LANES = C / 2, SLOTS = THREADS / LANES;
#if IN == 0
typedef float Raw;
typedef float2 Two;
DI Two two(const float (&v)[2]) { return make_float2(v[0], v[1]); }
DI void spread(Two q, float (&v)[2]) { v[0] = q.x, v[1] = q.y; }
#else
typedef u16 Raw;
typedef u32 Two;
DI Two two(const float (&v)[2]) { return pack<IN>(v[0], v[1]); }
DI void spread(Two q, float (&v)[2]) { v[0] = low<IN>(q), v[1] = high<IN>(q); }
#endif
constexpr int COLUMN = C * (int)sizeof(Raw);                    // bytes of a position in shared memory
constexpr int PARTS = COLUMN / (WIDE ? 16 : 8);                 // copies of a position
constexpr int AT_ONCE = LANES / PARTS, ROUNDS = (P + 1) / AT_ONCE;  // positions that a slot's threads copy together

struct Problem {  // every field is 8 bytes, in cuda.py's order
  const Raw* x;
  const float *weight, *bias;  // (D, 9), (D)
  Raw* y;
  const Raw* dy;
  Raw* dx;
  float *dweight, *dbias;  // (task, D, 9), (task, D)
  // groups of channels, slots of an image, tiles of a row, images of a block, rows of a strip, strips of a map
  i64 images, height, width, dim, groups, slots, tiles, per, rows, strips;
};

struct Place {
  int lane, slot, of_image, which, slots, channels, channel, H, W, D;
  int task, left, top, bottom, from, to;  // left: of the thread's positions in the map, of which from to `to` are its own
  i64 image;
  bool on;  // whether the thread has anything to compute
  DI Place(const Problem& p) {
    int rest = (int)(blockIdx.x / (u32)p.groups);
    lane = threadIdx.x % LANES, slot = threadIdx.x / LANES, slots = (int)p.slots;
    of_image = slot % slots, which = slot / slots;
    H = (int)p.height, W = (int)p.width, D = (int)p.dim, task = rest;
    channels = (int)(blockIdx.x % (u32)p.groups) * C, channel = channels + 2 * lane;
    top = rest % (int)p.strips * (int)p.rows, bottom = top + (int)p.rows < H ? top + (int)p.rows : H;
    rest /= (int)p.strips;
    const int tile = rest % (int)p.tiles, start = tile * (P * slots - 3);
    image = (i64)(rest / (int)p.tiles) * p.per + which;
    left = start + of_image * P;
    // a tile's first column and its last two lack neighbours, unless the map ends there
    const int low = tile ? start + 1 : 0, high = tile + 1 < (int)p.tiles ? start + P * slots - 2 : W;
    from = low - left, to = high - left;
    on = which < (int)p.per && image < p.images && channel < D;
  }
  DI bool own(int j) const { return !MASK || (j >= from && j < to); }
  DI i64 at(int row) const { return ((image * H + row) * W + left) * D + channel; }
};

struct Filter {
  float w[9][2], bias[2];
  DI Filter(const Problem& p, const Place& me) {
    UNROLL for (int n = 0; n < 18; n++) w[n % 9][n / 9] = me.on ? p.weight[me.channel * 9 + n] : 0.f;
    UNROLL for (int e = 0; e < 2; e++) bias[e] = BIAS && me.on ? p.bias[me.channel + e] : 0.f;
  }
};

// Rows of x, and of dy one above, on their way through shared memory. An image's columns of x have one more at each end.
template <bool DY> struct Ring {
  const Place& me;
  char *memory, *x_to, *dy_to;
  const char *x, *dy;  // what the thread copies next
  u32 now, stage, x_at, dy_at, takes, inside;
  int row, stop, step;
  i64 pitch;
  DI Ring(const Problem& p, const Place& me_, char* memory_, int first, int last)
      : me(me_), memory(memory_), takes(0), inside(0), row(first), stop(last) {
    const int per = (int)p.per, m = me.lane / PARTS, part = me.lane % PARTS * (C / PARTS);
    const u32 width = P * me.slots + 2, plane = per * width * COLUMN;
    stage = DY ? plane + per * P * me.slots * COLUMN : plane, now = (STAGES - 1) * stage;
    x_at = (me.which * width + me.of_image * P) * COLUMN, dy_at = plane + me.slot * P * COLUMN;
    const bool some = me.which < per && me.image < p.images;
    UNROLL for (int n = 0; n < ROUNDS; n++) {  // x: from the column before the slot on; dy: from its first
      const int column = m + n * AT_ONCE, at = me.left + column - 1;
      if (some && (column || !me.of_image)) takes |= 1u << n;
      if (some && column < P) takes |= 16u << n;
      if (me.channels + part >= me.D) continue;
      if (at >= 0 && at < me.W) inside |= 1u << n;
      if (at + 1 < me.W) inside |= 16u << n;
    }
    step = AT_ONCE * me.D * (int)sizeof(Raw), pitch = (i64)me.W * me.D * sizeof(Raw);
    x = (const char*)(p.x + me.at(first) + (m - 1) * me.D + part - 2 * me.lane);
    dy = (const char*)(p.dy + me.at(first - 1) + m * me.D + part - 2 * me.lane);
    x_to = memory + x_at + m * COLUMN + part * sizeof(Raw), dy_to = memory + dy_at + m * COLUMN + part * sizeof(Raw);
    x_at += 2 * me.lane * (u32)sizeof(Raw), dy_at += 2 * me.lane * (u32)sizeof(Raw);
    for (int n = threadIdx.x; n < STAGES * per * COLUMN / 4; n += THREADS) {  // the columns after the last, never copied
      const int column = n / (COLUMN / 4);
      *(u32*)(memory + column / per * stage + (column % per + 1) * width * COLUMN - COLUMN + n % (COLUMN / 4) * 4) = 0;
    }
    UNROLL for (int n = 0; n < STAGES - 1; n++) fetch(n * stage);
  }
  DI static void copy_piece(char* to, const char* from, bool on) {
#if WIDE
    copy16(to, from, on);
#else
    UNROLL for (int n = 0; n < 2; n++) ((u32*)to)[n] = on ? ((const u32*)from)[n] : 0u;
#endif
  }
  DI void fetch(u32 to) {
    if (row <= stop) {
      const u32 seen = inside & ((row >= 0 && row < me.H ? 15u : 0u) | (row > 0 ? 0xf0u : 0u));
      UNROLL for (int n = 0; n < ROUNDS; n++)
        if (takes >> n & 1) copy_piece(x_to + to + n * AT_ONCE * COLUMN, x + (i64)n * step, seen >> n & 1);
      UNROLL for (int n = 0; DY && n < ROUNDS; n++)
        if (takes >> n & 16) copy_piece(dy_to + to + n * AT_ONCE * COLUMN, dy + (i64)n * step, seen >> n & 16);
    }
    commit();
    row++, x += pitch, dy += pitch;
  }
  DI void next() {  // to the next row; the one before makes room
    const u32 before = now;
    now = now == (STAGES - 1) * stage ? 0 : now + stage;
    wait<STAGES - 2>();
    __syncthreads();
    fetch(before);
  }
  DI Two x_column(int j) const { return *(const Two*)(memory + now + x_at + j * COLUMN); }
  DI Two dy_column(int j) const { return *(const Two*)(memory + now + dy_at + j * COLUMN); }
};

// Three lines of the thread's positions and one on either side.
struct Window {
  float v[3][P + 2][2];
  DI void shift() {
    UNROLL for (int j = 0; j < P + 2; j++)
      UNROLL for (int e = 0; e < 2; e++) v[0][j][e] = v[1][j][e], v[1][j][e] = v[2][j][e];
  }
  template <bool DY> DI void column(const Ring<DY>& ring, int j) { spread(ring.x_column(j), v[2][j]); }
  template <bool DY> DI void start(Ring<DY>& ring) {  // the line before the first and the first
    UNROLL for (int i = 0; i < 2; i++) {
      ring.next();
      shift();
      UNROLL for (int j = 0; j < P + 2; j++)
        if (ring.me.on) column(ring, j);
        else v[2][j][0] = v[2][j][1] = 0.f;
    }
  }
  DI void convolve(const Filter& my, int at, float (&sum)[2]) const {
    UNROLL for (int e = 0; e < 2; e++) {
      sum[e] = my.bias[e];
      UNROLL for (int n = 0; n < 9; n++) sum[e] += my.w[n][e] * v[n / 3][at + n % 3][e];
    }
  }
};

DI float sigmoid(float x) { return inverse(1.f + exp2_(x * -1.4426950408889634f)); }
