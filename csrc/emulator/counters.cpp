#include "counters.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "memory.h"
#include "report.h"
#include "settings.h"

namespace torchext::emulator {
namespace {

constexpr int kSector = 32, kBanks = 32, kWord = 4;

// Banks serve 128 bytes a cycle: lanes of 8 bytes come in two halves, of 16 in four quarters.
void count_wavefronts(Cost& cost, const Access** lanes, int count) {
  const uint32_t bytes = lanes[0]->bytes;
  const int together = bytes <= 4 ? 32 : bytes == 8 ? 16 : 8;
  for (int begin = 0; begin < count; begin += together) {
    std::vector<uintptr_t> words;
    for (int i = begin; i < std::min(count, begin + together); ++i) {
      const uintptr_t first = lanes[i]->address / kWord;
      for (uintptr_t word = first; word * kWord < lanes[i]->address + bytes; ++word) {
        words.push_back(word);
      }
    }
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    int in_bank[kBanks] = {};
    for (uintptr_t word : words) ++in_bank[word % kBanks];
    cost.wavefronts += *std::max_element(in_bank, in_bank + kBanks);
    cost.fewest_wavefronts += (words.size() + kBanks - 1) / kBanks;
  }
}

struct Done {  // a launch
  const void* kernel;
  std::map<void*, Cost> lines;
  std::unordered_set<uintptr_t> read, written;
  uint64_t products = 0;
};
std::vector<Done> launches;
bool open = false;

std::string in_json(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

void Cost::add(const Cost& other) {
  requests += other.requests;
  lanes += other.lanes;
  sectors += other.sectors;
  fewest_sectors += other.fewest_sectors;
  wavefronts += other.wavefronts;
  fewest_wavefronts += other.fewest_wavefronts;
  bytes = other.bytes;
  writes = other.writes;
  shared = other.shared;
  matrix_row = other.matrix_row;
}

void Counters::clear() {
  lines.clear();
  read.clear();
  written.clear();
  products = 0;
}

void Counters::count(const Access** lanes, int count) {
  const Access& one = *lanes[0];
  Cost cost;
  cost.requests = 1;
  cost.lanes = count;
  cost.bytes = one.bytes;
  cost.writes = one.writes;
  cost.shared = one.shared;
  cost.matrix_row = one.matrix_row;
  if (one.shared) {
    count_wavefronts(cost, lanes, count);
  } else {
    std::vector<uintptr_t> sectors, addresses;
    for (int i = 0; i < count; ++i) {
      const uintptr_t begin = lanes[i]->address, end = begin + one.bytes;
      addresses.push_back(begin);
      for (uintptr_t s = begin / kSector; s * kSector < end; ++s) sectors.push_back(s);
    }
    for (auto* list : {&sectors, &addresses}) {
      std::sort(list->begin(), list->end());
      list->erase(std::unique(list->begin(), list->end()), list->end());
    }
    cost.sectors = sectors.size();
    cost.fewest_sectors = (addresses.size() * one.bytes + kSector - 1) / kSector;
    (one.writes ? written : read).insert(sectors.begin(), sectors.end());
  }
  // A copy has both sides at one place.
  lines[static_cast<char*>(one.at) + (one.shared ? 0 : uintptr_t{1} << 62)].add(cost);
}

// A request: what the lanes of a warp do at one place, the same time around.
void Counters::flush(Warp& warp) {
  std::map<std::pair<std::pair<void*, bool>, uint32_t>, std::vector<const Access*>> requests;
  const int lanes = __builtin_popcount(warp.existing);
  for (int lane = 0; lane < lanes; ++lane) {
    std::map<std::pair<void*, bool>, uint32_t> times;
    for (const Access& access : warp.threads[lane].accesses) {
      const std::pair<void*, bool> place(access.at, access.shared);
      requests[{place, times[place]++}].push_back(&access);
    }
  }
  for (auto& [place, found] : requests) count(found.data(), static_cast<int>(found.size()));
  for (int lane = 0; lane < lanes; ++lane) warp.threads[lane].accesses.clear();
}

void count_products(uint64_t operations) {
  if (current_settings().counts) worker->counters->products += operations;
}

void flush(Warp& warp) {
  if (current_settings().counts) worker->counters->flush(warp);
}

void collect(Counters& counters, const void* kernel, bool last) {
  if (!open) launches.emplace_back();
  open = !last;
  Done& done = launches.back();
  done.kernel = kernel;
  for (const auto& [at, cost] : counters.lines) done.lines[at].add(cost);
  done.read.insert(counters.read.begin(), counters.read.end());
  done.written.insert(counters.written.begin(), counters.written.end());
  done.products += counters.products;
  counters.clear();
}

// All launches since the last call, as JSON; valid until the next call.
extern "C" const char* torchext_emulator_take_profile() {
  static std::string text;
  std::vector<void*> code;
  constexpr uintptr_t kPlace = (uintptr_t{1} << 62) - 1;
  for (const Done& done : launches) {
    code.push_back(const_cast<void*>(done.kernel));
    for (const auto& line : done.lines) {
      code.push_back(
          reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(line.first) & kPlace) - 1));
    }
  }
  const auto places = places_of(code);
  size_t next = 0;
  text = "[";
  for (const Done& done : launches) {
    char numbers[300];
    snprintf(numbers, sizeof numbers, ", \"read\": %zu, \"written\": %zu, \"products\": %zu",
             done.read.size() * kSector, done.written.size() * kSector, size_t(done.products));
    text += (text.size() > 1 ? ", " : "") + std::string("{\"kernel\": ") +
            in_json(places[next++].function) + numbers + ", \"lines\": [";
    bool first = true;
    for (const auto& [at, c] : done.lines) {
      snprintf(
          numbers, sizeof numbers,
          ", \"shared\": %d, \"writes\": %d, \"bytes\": %u, \"matrix_row\": %d, \"requests\": "
          "%zu, \"lanes\": %zu, \"sectors\": %zu, \"fewest_sectors\": %zu, \"wavefronts\": %zu,"
          " \"fewest_wavefronts\": %zu}",
          c.shared, c.writes, c.bytes, c.matrix_row, size_t(c.requests), size_t(c.lanes),
          size_t(c.sectors), size_t(c.fewest_sectors), size_t(c.wavefronts),
          size_t(c.fewest_wavefronts));
      text += (first ? "{\"line\": " : ", {\"line\": ") + in_json(places[next++].file) + numbers;
      first = false;
    }
    text += "]}";
  }
  text += "]";
  launches.clear();
  return text.c_str();
}

}  // namespace torchext::emulator
