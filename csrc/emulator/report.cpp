#include "report.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "machine.h"

namespace torchext::emulator {
namespace {

struct Finding {
  std::string kind, words;
  void* at;
  const void* kernel;
  uint64_t count;
};
std::mutex mutex;
std::vector<Finding> findings;

// Lines of the emulator's own headers, and of cuda/tile, tell less than those that called them.
bool tells_little(const std::string& file) {
  return file.find("/emulator/") != std::string::npos || file.find("/tile/") != std::string::npos ||
         file.find("/include/c++/") != std::string::npos || file.find("??") == 0;
}

std::string shortened(std::string file) {
  if (const auto note = file.find(" (disc"); note != file.npos) file.resize(note);
  if (const auto root = file.rfind("csrc/"); root != file.npos) return file.substr(root);
  const auto slash = file.rfind('/');
  return slash == file.npos ? file : file.substr(slash + 1);
}

// addr2line's answer for code of one library.
void ask(const std::string& library, const std::vector<size_t>& which,
         const std::vector<void*>& code, uintptr_t base, std::vector<Place>& places) {
  std::string command = "addr2line -a -i -f -C -e '" + library + "'";
  for (size_t i : which) {
    char number[32];
    snprintf(number, sizeof number, " %#zx", size_t(reinterpret_cast<uintptr_t>(code[i]) - base));
    command += number;
  }
  FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return;
  std::vector<char> line(1 << 16);
  size_t answer = SIZE_MAX;
  std::string function;
  bool found = false;
  const auto next = [&](std::string& into) {
    if (!fgets(line.data(), static_cast<int>(line.size()), pipe)) return false;
    into = line.data();
    while (!into.empty() && into.back() == '\n') into.pop_back();
    return true;
  };
  for (std::string text; next(text);) {
    if (text.compare(0, 2, "0x") == 0) {
      ++answer;
      found = false;
      continue;
    }
    function = text;
    if (!next(text) || answer >= which.size()) break;
    Place& place = places[which[answer]];
    if (!found) {  // else the last one, which is a kernel
      place = {function, shortened(text)};
      found = !tells_little(text);
    }
  }
  pclose(pipe);
}

}  // namespace

std::vector<Place> places_of(const std::vector<void*>& code) {
  std::vector<Place> places(code.size());
  std::map<std::pair<std::string, uintptr_t>, std::vector<size_t>> libraries;
  for (size_t i = 0; i < code.size(); ++i) {
    Dl_info info;
    if (code[i] && dladdr(code[i], &info)) {
      libraries[{info.dli_fname, reinterpret_cast<uintptr_t>(info.dli_fbase)}].push_back(i);
    }
  }
  for (const auto& [library, which] : libraries) {
    constexpr size_t kAtOnce = 500;  // a command line has an end
    for (size_t i = 0; i < which.size(); i += kAtOnce) {
      const std::vector<size_t> part(which.begin() + i,
                                     which.begin() + std::min(which.size(), i + kAtOnce));
      ask(library.first, part, code, library.second, places);
    }
  }
  return places;
}

void report(const char* kind, void* at, const char* format, ...) {
  char words[600], who[200] = "";
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(words, sizeof words, format, arguments);
  va_end(arguments);
  if (current) {
    const Index b = current->block->index, t = current->index;
    snprintf(who, sizeof who, "block (%u, %u, %u), thread (%u, %u, %u): ", b.x, b.y, b.z, t.x, t.y,
             t.z);
  }
  const void* kernel = worker ? worker->running->launch.kernel : nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  for (Finding& known : findings) {
    if (known.at == at && known.kind == kind) {
      ++known.count;
      return;
    }
  }
  findings.push_back({kind, std::string(who) + words, at, kernel, 1});
}

std::string take_findings(const std::string& replay) {
  std::vector<Finding> found;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    found.swap(findings);
  }
  if (found.empty()) return "";
  constexpr size_t kMost = 10;
  std::vector<void*> code;
  for (size_t i = 0; i < found.size() && i < kMost; ++i) {
    code.push_back(found[i].at ? static_cast<char*>(found[i].at) - 1 : nullptr);
    code.push_back(const_cast<void*>(found[i].kernel));
  }
  const auto places = places_of(code);
  std::string text;
  for (size_t i = 0; 2 * i < code.size(); ++i) {
    text += "emulator: " + found[i].kind + ": " + places[2 * i].file + ": " + found[i].words;
    if (found[i].count > 1) text += " (and " + std::to_string(found[i].count - 1) + " more)";
    text += "; in " + places[2 * i + 1].function + "\n";
  }
  if (found.size() > kMost) text += std::to_string(found.size() - kMost) + " more places\n";
  return text + "replay: " + replay;
}

}  // namespace torchext::emulator
