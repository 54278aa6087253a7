// How maps come to shared memory and the output leaves it; follows rows.cu. The warps of a route copy together,
// 16 bytes a copy and all their channels of a position side by side, ahead of the use, with a barrier a tile
// among them. RESIDENT: whole maps of a block's images, read once and written once. Otherwise tiles in the order of the
// walk, the output by way of shared memory too.

// How the two directions take turns at what both add to. A counter says how many tiles a warp has written; it is
// published when half of a walk is done, and all of it, for these are what the others ask for. Whoever wants to add
// asks the warp of its own channels if the maps are RESIDENT, else all warps of the other direction.
struct Turns {
  int *mine, *others;
  int N, known;  // tiles of a walk; how many the others had written when last asked
  int images, earlier;  // a block's; tiles of a walk before this one, -1 if this is the first
  bool adds;
  DI Turns(int* counters, const Place& me)
      : N(me.tiles), known(me.adds), images((int)(me.last - me.first)), adds(me.adds) {
    mine = counters + me.back * CW + me.warp;
    others = counters + (1 - me.back) * CW + (RESIDENT ? me.warp : me.lane % CW);
  }
  DI void start(int pair, const Place& me) { earlier = pair > me.pair ? images * N : -1; }
  DI void publish(int n, int written, int lane) const {  // a warp has written tile n of a walk
    if (n != N - 1 && (2 * n < N - 3 || 2 * n > N - 1)) return;
    __syncwarp();
    if (lane == 0) ::publish(mine, written);
  }
  // How many tiles the others must have written before step n, tile number `step` of all, may add; 0 if it comes first.
  DI int needs(int n, int step, bool back) const {
    if (2 * n > N - 1 || (2 * n == N - 1 && back)) return step + N - 2 * n;
    return earlier >= 0 ? step - n - earlier + N : adds;
  }
  DI void await(int need) {
    while (known < need) {
      if (reached(others, need)) known = need;
      else pause();
    }
  }
};

#if RESIDENT
// Whole maps: for every warp a CELL a position, and one of zeros, where all that lies past the end is read.
struct Maps {
  char *memory, *mine;
  int cells;
  DI Maps(char* memory_, const Place& me) : memory(memory_), cells((int)(me.last - me.first) * me.L) {
    mine = memory + me.warp * (cells + 1) * CELL + me.g * 2 * (int)sizeof(Raw);
  }
  template <class Move> DI void each(const Place& me, Move move) const {
    for (int n = threadIdx.x; n < cells * SIDE; n += THREADS) {
      const int cell = n / SIDE, side = n % SIDE;
      const i64 at = (me.first * me.L + cell) * me.D + me.block * CW * 16 + side * (16 / (int)sizeof(Raw));
      move(memory + (side / (ROW / 16) * (cells + 1) + cell) * CELL + side % (ROW / 16) * 16, at);
    }
  }
  DI void load(const Problem& p, const Place& me) const {
    each(me, [&](char* to, i64 at) {
      copy16(to, p.x + at, true);
      if (p.dy) copy16(to + ROW, p.dy + at, true);
    });
    for (int n = threadIdx.x; n < CW * (CELL / 4); n += THREADS)
      *(u32*)(memory + (n / (CELL / 4) * (cells + 1) + cells) * CELL + n % (CELL / 4) * 4) = 0u;
    commit();
    wait<0>();
  }
  DI void store(const Place& me, Raw* y) const {
    each(me, [&](char* from, i64 at) { *(uint4*)(y + at) = *(const uint4*)(from + 2 * ROW); });
  }
};
// A tile's positions of a lane in the maps.
struct Tile {
  u32 at[S];
  char* mine;
  DI Tile(const Maps& maps, const Walk& w, int image, int tile, const Place& me) : mine(maps.mine) {
    const u32 start = tile * TILE + (w.back ? (3 - me.q) * S + S - 1 : me.q * S), zeros = (u32)maps.cells;
    if (WRAP) {
      UNROLL for (int i = 0; i < S; i++) {
        const u32 c = w.back ? start - i : start + i;
        at[i] = (c < w.L ? image * w.L + w.at(c) : zeros) * CELL;
      }
    } else {  // all of the lane's positions are there, in one line, or none
      const u32 from = (start < w.L ? image * w.L + w.at(start) : zeros) * CELL;
      const u32 step = start < w.L ? (w.back ? -w.step : w.step) * CELL : 0;
      UNROLL for (int i = 0; i < S; i++) at[i] = from + i * step;
    }
  }
  DI const Two& x(int i) const { return *(const Two*)(mine + at[i]); }
  DI const Two& dy(int i) const { return *(const Two*)(mine + at[i] + ROW); }
  DI Two& out(int i) const { return *(Two*)(mine + at[i] + 2 * ROW); }
};
// Keeps whole maps in shared memory for a kernel of INPUTS maps, x or x and dy.
template <int INPUTS> struct Flow {
  const Place& me;
  Rows rows;
  Turns turns;
  Maps maps;
  DI Flow(const Problem& p, const Place& me_, char* memory, char* room)
      : me(me_), rows(p, me_, memory), turns((int*)(memory + STAGES), me_), maps(room, me_) {
    maps.load(p, me);
  }
  DI void start(const Walk& walk, int pair, Raw* output, int tile, int step) {
    turns.start(pair, me);
    group(me.back);  // nobody reads the stages any more
    rows.start(walk, pair, tile, step);
  }
  DI int needs(int n, int step) const { return turns.needs(n, step, me.back); }
  DI Tile enter(const Walk& walk, int image, int tile, int n, int step, int needs) {
    wait<0>();
    group(me.back);
    return Tile(maps, walk, image, tile, me);
  }
  DI void fetch(const Walk& walk, int image, int tile, int step) { rows.fetch(walk, image, tile, step); }
  DI void settle(int needs) { turns.await(needs); }
  DI void leave(int n, int step) {
    turns.publish(n, step + 1, me.lane);
    rows.store(step + 1);
  }
  DI void finish(int pair, Raw* output, int step) {
    if (pair + 1 < me.pairs) return;
    __syncthreads();
    maps.store(me, output);
  }
};
#else
// A thread's share of the copies of a tile of a map: where each begins, in bytes from the image's start.
struct Pieces {
  u32 at[COPIES];
  DI Pieces() {}
  DI Pieces(const Walk& w, int tile, const Place& me) {
    UNROLL for (int n = 0; n < COPIES; n++) {
      const u32 piece = me.thread + HALF * n, row = piece / SIDE, c = tile * TILE + (w.back ? TILE - 1 - row : row);
      const u32 channel = me.block * CW * ROW + piece % SIDE * 16;
      at[n] = piece < PIECES && c < w.L ? w.at(c) * (w.D * (u32)sizeof(Raw)) + channel : ~0u;
    }
  }
  DI static u32 spot(int piece, int stride) {  // in shared memory, where a warp's maps are `stride` from the next's
    const int row = piece / SIDE, side = piece % SIDE;
    return side / (ROW / 16) * stride + row * ROW + row / S * SKEW + side % (ROW / 16) * 16;
  }
  DI void get(const Raw* image, char* map, int thread, int stride) const {
    UNROLL for (int n = 0; n < COPIES; n++)
      if (thread + HALF * n < PIECES)
        copy16(map + spot(thread + HALF * n, stride), (const char*)image + at[n], ~at[n]);
  }
  DI void put(Raw* image, const char* map, int thread, int stride) const {
    UNROLL for (int n = 0; n < COPIES; n++)
      if (~at[n]) *(uint4*)((char*)image + at[n]) = *(const uint4*)(map + spot(thread + HALF * n, stride));
  }
};
struct Tile {
  const char* map;
  char* place;
  DI const Two& x(int i) const { return *(const Two*)(map + i * ROW); }
  DI const Two& dy(int i) const { return *(const Two*)(map + MAP + i * ROW); }
  DI Two& out(int i) const { return *(Two*)(place + i * ROW); }
};
// Brings tiles of INPUTS maps, x or x and dy, and of the output to shared memory one step ahead: in turn to two places.
template <int INPUTS> struct Flow {
  static constexpr int MAPS = (2 * INPUTS + 2) * MAP;
  const Place& me;
  Rows rows;
  Turns turns;
  const Raw *x, *dy;
  Raw *out, *was_out;  // first image's; the image of the tile before
  char* room;
  u32 bytes, own;
  Pieces next, was;
  DI Flow(const Problem& p, const Place& me_, char* memory, char* room_)
      : me(me_), rows(p, me_, memory), turns((int*)(memory + STAGES), me_) {
    room = room_ + me.back * CW * MAPS, own = me.warp * MAPS + me.word;
    bytes = me.L * me.D * (u32)sizeof(Raw);
    x = p.x + me.first * me.L * me.D, dy = INPUTS == 2 ? p.dy + me.first * me.L * me.D : nullptr;
  }
  DI char* input(int step) const { return room + (step & 1) * INPUTS * MAP; }
  DI char* output(int step) const { return room + (2 * INPUTS + (step & 1)) * MAP; }
  DI void bring(const Walk& walk, int image, int tile, int step) {
    next = Pieces(walk, tile, me);
    next.get(of_image(x, image, bytes), input(step), me.thread, MAPS);
    if (INPUTS == 2) next.get(of_image(dy, image, bytes), input(step) + MAP, me.thread, MAPS);
  }
  DI void start(const Walk& walk, int pair, Raw* output, int tile, int step) {
    out = output + me.first * me.L * me.D, was_out = nullptr;
    turns.start(pair, me);
    group(me.back);  // nobody reads the stages any more
    bring(walk, 0, tile, step);
    was = next;
    rows.start(walk, pair, tile, step);
  }
  DI int needs(int n, int step) const { return turns.needs(n, step, me.back); }
  DI void put(int n, int step) {  // tile n of a walk, of step `step`
    was.put(was_out, output(step), me.thread, MAPS);
    turns.publish(n, step + 1, me.lane);
  }
  DI Tile enter(const Walk& walk, int image, int tile, int n, int step, int needs) {
    wait<0>();
    group(me.back);
    if (was_out) put(n ? n - 1 : turns.N - 1, step - 1);
    was_out = of_image(out, image, bytes), was = next;
    if (needs) {
      turns.await(needs);
      was.get(was_out, output(step), me.thread, MAPS);
    }
    commit();
    return {input(step) + own, output(step) + own};
  }
  DI void fetch(const Walk& walk, int image, int tile, int step) {
    bring(walk, image, tile, step);
    rows.fetch(walk, image, tile, step);
  }
  DI void settle(int needs) {
    wait<1>();
    group(me.back);
  }
  DI void leave(int n, int step) { rows.store(step + 1); }
  DI void finish(int pair, Raw* output, int step) {
    group(me.back);
    put(turns.N - 1, step - 1);
  }
};
#endif
