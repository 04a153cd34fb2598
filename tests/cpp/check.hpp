// A test framework in one header: TEST(name) { CHECK(...); }. Each test file is a program; its exit code is
// the number of failed tests. There is no dependency, so that the core's tests build wherever the core does.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace check {

struct Test {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Register {
  Register(const char* name, std::function<void()> body) { tests().push_back({name, std::move(body)}); }
};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  throw Failure(std::string(file) + ":" + std::to_string(line) + ": " + what);
}

template <class A, class B>
void equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (a == b) return;
  std::ostringstream message;
  message << text << ": " << a << " is not " << b;
  fail(file, line, message.str());
}

// Runs `work`, which must throw E with `fragment` in its message.
template <class E, class Work>
void throws(const char* fragment, const Work& work, const char* file, int line) {
  try {
    work();
  } catch (const E& error) {
    if (std::string(error.what()).find(fragment) != std::string::npos) return;
    fail(file, line, std::string("the message lacks '") + fragment + "': " + error.what());
  }
  fail(file, line, std::string("no exception; expected one with '") + fragment + "'");
}

inline int run() {
  int failed = 0;
  for (const Test& test : tests()) {
    try {
      test.body();
    } catch (const std::exception& error) {
      std::printf("FAILED %s: %s\n", test.name, error.what());
      ++failed;
    }
  }
  std::printf("%zu tests, %d failed\n", tests().size(), failed);
  return failed;
}

}  // namespace check

#define CHECK(condition) \
  if (!(condition)) check::fail(__FILE__, __LINE__, #condition)
#define CHECK_EQ(a, b) check::equal((a), (b), #a, __FILE__, __LINE__)
#define CHECK_THROWS(Exception, fragment, expression) \
  check::throws<Exception>(fragment, [&] { expression; }, __FILE__, __LINE__)
#define TEST(name)                                           \
  static void name();                                        \
  static const check::Register register_##name(#name, name); \
  static void name()

int main() { return check::run(); }
