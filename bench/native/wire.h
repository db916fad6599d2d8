// The messages of bench/wire.py: uint32 little-endian length | JSON header | array bytes …
//
// Reads just the JSON that its Python side writes: `arrays` last, and nothing nested or escaped before it.
#pragma once

#include <executorch/runtime/core/exec_aten/exec_aten.h>

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

namespace wire {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;

struct Array {
  std::string code;  // numpy's dtype.str
  std::vector<SizesType> shape;
  std::vector<char> bytes;
};

struct Message {
  std::string header;
  std::vector<Array> arrays;
};

struct Code {
  const char* code;
  ScalarType type;
};
inline constexpr Code kCodes[] = {
    {"<f4", ScalarType::Float}, {"<f2", ScalarType::Half}, {"<f8", ScalarType::Double},
    {"|i1", ScalarType::Char},  {"|u1", ScalarType::Byte}, {"<i2", ScalarType::Short},
    {"<i4", ScalarType::Int},   {"<i8", ScalarType::Long}, {"|b1", ScalarType::Bool},
};

inline ScalarType type_of(const std::string& code) {
  for (const Code& known : kCodes)
    if (code == known.code) return known.type;
  throw std::runtime_error("no tensor holds an array of dtype " + code);
}

inline std::string code_of(ScalarType type) {
  for (const Code& known : kCodes)
    if (type == known.type) return known.code;
  throw std::runtime_error("no array holds an output of this type");
}

/// The digits at `at`, which moves past them.
inline long long number(const std::string& text, size_t& at) {
  long long value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; at++) value = value * 10 + (text[at] - '0');
  return value;
}

/// The text or number of one of the header's fields.
inline std::string field(const std::string& header, const std::string& name) {
  size_t at = header.find("\"" + name + "\":");
  if (at == std::string::npos) throw std::runtime_error("the request lacks " + name);
  at = header.find_first_not_of(" \"", at + name.size() + 3);
  return header.substr(at, header.find_first_of("\",}", at) - at);
}

inline bool read_exactly(void* into, size_t bytes) { return std::fread(into, 1, bytes, stdin) == bytes; }

/// Reads one message from standard input; false where that ends before or within one.
inline bool receive(Message& message) {
  uint32_t length;
  if (!read_exactly(&length, sizeof length)) return false;
  message.header.resize(length);
  message.arrays.clear();
  if (!read_exactly(message.header.data(), length)) return false;
  const std::string& header = message.header;
  size_t at = header.find("\"arrays\":");  // [["<f4", [1, 3, 32, 32]], …]
  at = at == std::string::npos ? at : header.find('"', at + 9);
  while (at != std::string::npos) {
    Array array;
    const size_t quote = header.find('"', at + 1), close = header.find(']', quote);
    array.code = header.substr(at + 1, quote - at - 1);
    size_t digits = 2;
    size_t bytes = number(array.code, digits);  // "<f4": four each
    for (at = quote; (at = header.find_first_of("0123456789]", at)) < close;) {
      array.shape.push_back(static_cast<SizesType>(number(header, at)));
      bytes *= array.shape.back();
    }
    array.bytes.resize(bytes);
    if (!read_exactly(array.bytes.data(), bytes)) return false;
    message.arrays.push_back(std::move(array));
    at = header.find('"', close);
  }
  return true;
}

template <typename T>
std::string item(const char* name, T value) {
  return std::string("\"") + name + "\": " + std::to_string(value) + ", ";
}

/// Sends a header of `items` and then the arrays' layout, and their bytes.
inline void send(const std::string& items, const std::vector<Array>& arrays = {}) {
  std::string layout, data;
  for (const Array& array : arrays) {
    std::string shape;
    for (SizesType size : array.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    layout += (layout.empty() ? "[\"" : ", [\"") + array.code + "\", [" + shape + "]]";
    data.append(array.bytes.data(), array.bytes.size());
  }
  const std::string header = "{" + items + "\"arrays\": [" + layout + "]}";
  const uint32_t length = static_cast<uint32_t>(header.size());
  std::fwrite(&length, sizeof length, 1, stdout);
  std::fwrite(header.data(), 1, header.size(), stdout);
  std::fwrite(data.data(), 1, data.size(), stdout);
  std::fflush(stdout);
}

}  // namespace wire
