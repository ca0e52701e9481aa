// What an operator needs of ONNX Runtime's C API.
//
// ONNX Runtime's package has no headers. Its API is a table of functions that only grows; the first 102 are those of
// version 1 (2019), which it promises never to move. Only these are used, by their place in the table. An operator is
// described by a structure that only grows, too; this is that of version 16, the first whose operators may fail.

#pragma once

#include <cstddef>
#include <cstdint>

namespace onnxruntime_v1 {

struct Status;    // null: no error
struct Value;     // a tensor
struct Context;   // of one run
struct Info;      // of a node
struct Shape;
struct Domain;
struct Options;   // of a session

constexpr int kFloat = 1;
constexpr int kUint8 = 2;
constexpr int kInt8 = 3;
constexpr int kInt64 = 7;
constexpr int kDouble = 11;

using Api = void* const*;

struct ApiBase {
  Api (*get_api)(uint32_t version);
  const char* (*version)();
};

// OrtCustomOp.
struct Operator {
  uint32_t version;
  void* (*create_1)(const Operator*, Api, const Info*);
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  int (*input_type)(const Operator*, size_t);
  size_t (*input_count)(const Operator*);
  int (*output_type)(const Operator*, size_t);
  size_t (*output_count)(const Operator*);
  void (*compute_1)(void*, Context*);
  void (*destroy)(void*);
  int (*input_is)(const Operator*, size_t);
  int (*output_is)(const Operator*, size_t);
  int (*input_memory)(const Operator*, size_t);
  int (*variadic[4])(const Operator*);
  Status* (*create)(const Operator*, Api, const Info*, void**);
  Status* (*compute)(void*, Context*);
};
constexpr uint32_t kVersion = 16;

// Thrown for what a function of the API did not do.
struct Failed {
  Status* status;
};

inline void check(Status* status) {
  if (status != nullptr) throw Failed{status};
}

template <typename Function, int place>
Function entry(Api api) {
  return reinterpret_cast<Function>(api[place]);
}

inline Status* make_status(Api api, const char* message) {
  constexpr int kInvalidArgument = 2;
  return entry<Status* (*)(int, const char*), 0>(api)(kInvalidArgument, message);
}
inline void create_domain(Api api, const char* name, Domain** made) {
  check(entry<Status* (*)(const char*, Domain**), 26>(api)(name, made));
}
inline void add_operator(Api api, Domain* domain, const Operator* added) {
  check(entry<Status* (*)(Domain*, const Operator*), 27>(api)(domain, added));
}
inline void add_domain(Api api, Options* options, Domain* added) {
  check(entry<Status* (*)(Options*, Domain*), 28>(api)(options, added));
}
inline void* data_of(Api api, const Value* value) {
  void* data = nullptr;
  check(entry<Status* (*)(const Value*, void**), 51>(api)(value, &data));
  return data;
}
inline size_t rank_of(Api api, const Shape* shape) {
  size_t rank = 0;
  check(entry<Status* (*)(const Shape*, size_t*), 61>(api)(shape, &rank));
  return rank;
}
inline void sizes_of(Api api, const Shape* shape, int64_t* sizes, size_t rank) {
  check(entry<Status* (*)(const Shape*, int64_t*, size_t), 62>(api)(shape, sizes, rank));
}
inline Shape* shape_of(Api api, const Value* value) {
  Shape* shape = nullptr;
  check(entry<Status* (*)(const Value*, Shape**), 65>(api)(value, &shape));
  return shape;
}
inline float attribute(Api api, const Info* info, const char* name) {
  float value = 0.0f;
  check(entry<Status* (*)(const Info*, const char*, float*), 85>(api)(info, name, &value));
  return value;
}
inline const Value* input(Api api, const Context* context, size_t number) {
  const Value* value = nullptr;
  check(entry<Status* (*)(const Context*, size_t, const Value**), 90>(api)(context, number, &value));
  return value;
}
inline Value* output(Api api, Context* context, size_t number, const int64_t* sizes, size_t rank) {
  Value* value = nullptr;
  check(entry<Status* (*)(Context*, size_t, const int64_t*, size_t, Value**), 91>(api)(context, number, sizes, rank,
                                                                                      &value));
  return value;
}
inline void release(Api api, Shape* shape) { entry<void (*)(Shape*), 99>(api)(shape); }

}  // namespace onnxruntime_v1
