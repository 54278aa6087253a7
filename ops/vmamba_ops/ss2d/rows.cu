// How rows of P come to shared memory; follows ss2d.cu.
// What a number of bytes an image, from the first image on, has for an image.
template <class T> DI T* of_image(T* from, int image, u32 bytes) {
  return (T*)((const char*)from + (unsigned long long)bytes * (u32)image);
}

// A route's part of a tile of P on its way to shared memory, rows in the order of the walk. 16-bit numbers go there by
// themselves, WIDE at a time; float is split on the way, so that it needs `store`.
constexpr int WIDE = IN == 0 ? 2 : 8, PARCELS = TILE * RQ / WIDE, SHARE = (PARCELS + HALF - 1) / HALF;
struct Staged {
#if IN == 0
  Two v[SHARE];
#endif
  DI void load(const Raw* P, u16* stage, const Walk& w, int tile, int thread, int route) {
    UNROLL for (int n = 0; n < SHARE; n++) {
      const u32 parcel = thread + n * HALF, row = parcel / (RQ / WIDE), column = parcel % (RQ / WIDE) * WIDE;
      const u32 c = tile * TILE + (w.back ? TILE - 1 - row : row);
      if (parcel >= PARCELS) continue;
      const Raw* from = P + (w.at(c) * (4 * RQ) + route * RQ + column);
#if IN == 0
      v[n] = c < w.L ? *(const Two*)from : nothing();
#else
      copy16(stage + row * PITCH + column, from, c < w.L);
#endif
    }
  }
  DI void store(u16* stage, int thread) const {
#if IN == 0
    UNROLL for (int n = 0; n < SHARE; n++) {
      const int parcel = thread + n * HALF;
      if (parcel >= PARCELS) continue;
      u16* to = stage + parcel / (RQ / 2) * PITCH + parcel % (RQ / 2) * 2;
      u32 terms[TERMS];
      split(v[n].x, v[n].y, terms);
      UNROLL for (int k = 0; k < TERMS; k++) *(u32*)(to + k * PLANE) = terms[k];
    }
#endif
  }
};

// Rows of P of a route, a tile at a time, in turn to two places.
struct Rows {
  const Place& me;
  u16* stages;
  const Raw* P;
  u32 bytes;
  int route;
  Staged staged;
  DI Rows(const Problem& p, const Place& me_, char* memory) : me(me_), stages((u16*)memory + me_.back * 2 * STAGE) {
    P = p.P + me.first * me.L * (4 * RQ), bytes = me.L * 4 * RQ * (u32)sizeof(Raw);
  }
  DI u16* stage(int step) const { return stages + (step & 1) * STAGE; }
  DI void fetch(const Walk& walk, int image, int tile, int step) {
    staged.load(of_image(P, image, bytes), stage(step), walk, tile, me.thread, route);
  }
  DI void store(int step) const { staged.store(stage(step), me.thread); }
  DI void start(const Walk& walk, int pair, int tile, int step) {
    route = pair + 2 * me.back;
    fetch(walk, 0, tile, step);
    commit();
    store(step);
  }
};
