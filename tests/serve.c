/* Runs a signature of a SavedModel as a model server does: by TensorFlow's C++ loader, through the
 * C API, with the names of tensors taken from the SignatureDef. No Python is involved.
 *
 *   serve MODEL SIGNATURE FILE...
 *
 * Inputs: `image_bytes` the files' bytes; `pixels` the files as PPM (P6) of one size; `box` and
 * `landmarks` unknown (NaN). Prints per output one line: name, dtype, rank, dimensions, values.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

#define MOST 64
#define NAME 512

static void fail(const char *what, const char *why) {
  fprintf(stderr, "serve: %s: %s\n", what, why);
  exit(1);
}

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

/* Protocol buffers: a message is a row of fields, each a number and a value. */
typedef struct {
  const uint8_t *at, *end;
} Message;

static uint64_t varint(Message *m) {
  uint64_t value = 0;
  for (int shift = 0; m->at < m->end && shift < 64; shift += 7) {
    uint8_t byte = *m->at++;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
  fail("MetaGraphDef", "damaged");
  return 0;
}

/* The next field's number, 0 at the end; of one with a length `inside`, of a plain one `value`. */
static int next_field(Message *m, Message *inside, uint64_t *value) {
  if (m->at >= m->end) return 0;
  uint64_t tag = varint(m), size = 0;
  inside->at = inside->end = m->at;
  switch (tag & 7) {
    case 0: *value = varint(m); return tag >> 3;
    case 1: size = 8; break;
    case 2: size = varint(m); break;
    case 5: size = 4; break;
    default: fail("MetaGraphDef", "a field of unknown kind");
  }
  if (size > (uint64_t)(m->end - m->at)) fail("MetaGraphDef", "cut off");
  inside->at = m->at;
  inside->end = m->at += size;
  return tag >> 3;
}

static void text(Message m, char *out) {
  size_t size = m.end - m.at;
  if (size >= NAME) fail("MetaGraphDef", "a name is too long");
  memcpy(out, m.at, size);
  out[size] = 0;
}

typedef struct {
  char key[NAME], tensor[NAME];
} Entry;

/* One entry of map<string, TensorInfo>. */
static void read_entry(Message m, Entry *entry) {
  Message field, inner;
  uint64_t value;
  for (int number; (number = next_field(&m, &field, &value));) {
    if (number == 1) text(field, entry->key);
    if (number != 2) continue;
    for (int n; (n = next_field(&field, &inner, &value));)
      if (n == 1) text(inner, entry->tensor);
  }
}

/* Finds a SignatureDef (field 5 of MetaGraphDef, a map) and its inputs (1) and outputs (2). */
static void read_signature(Message graph, const char *wanted, Entry *inputs, int *n_inputs,
                           Entry *outputs, int *n_outputs) {
  Message entry, field, inner;
  uint64_t value;
  for (int number; (number = next_field(&graph, &entry, &value));) {
    if (number != 5) continue;
    char key[NAME] = "";
    Message definition = {0, 0};
    for (int n; (n = next_field(&entry, &field, &value));) {
      if (n == 1) text(field, key);
      if (n == 2) definition = field;
    }
    if (strcmp(key, wanted)) continue;
    for (int n; (n = next_field(&definition, &inner, &value));) {
      if (n == 1 && *n_inputs < MOST) read_entry(inner, &inputs[(*n_inputs)++]);
      if (n == 2 && *n_outputs < MOST) read_entry(inner, &outputs[(*n_outputs)++]);
    }
    return;
  }
  fail(wanted, "no such signature");
}

static TF_Output place(TF_Graph *graph, const char *tensor) {
  char name[NAME];
  strcpy(name, tensor);
  char *colon = strrchr(name, ':');
  int index = colon ? atoi(colon + 1) : 0;
  if (colon) *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (!output.oper) fail(tensor, "no such operation");
  return output;
}

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) fail(path, "cannot be opened");
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  char *data = malloc(*size + 1);
  if (fread(data, 1, *size, file) != *size) fail(path, "cannot be read");
  fclose(file);
  return data;
}

static TF_Tensor *files_tensor(char **files, int count) {
  int64_t shape[] = {count};
  TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, shape, 1, count * sizeof(TF_TString));
  TF_TString *strings = TF_TensorData(tensor);
  for (int i = 0; i < count; i++) {
    size_t size;
    char *data = read_file(files[i], &size);
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], data, size);
    free(data);
  }
  return tensor;
}

static TF_Tensor *pixels_tensor(char **files, int count) {
  TF_Tensor *tensor = NULL;
  for (int i = 0; i < count; i++) {
    size_t size;
    int width, height, start;
    char *data = read_file(files[i], &size);
    data[size] = 0;
    if (sscanf(data, "P6 %d %d 255%n", &width, &height, &start) != 2) fail(files[i], "no PPM");
    int64_t shape[] = {count, height, width, 3};
    size_t bytes = (size_t)height * width * 3;
    if (!tensor) tensor = TF_AllocateTensor(TF_UINT8, shape, 4, count * bytes);
    if (size != start + 1 + bytes || TF_TensorByteSize(tensor) != count * bytes)
      fail(files[i], "another size");
    memcpy((char *)TF_TensorData(tensor) + i * bytes, data + start + 1, bytes);
    free(data);
  }
  return tensor;
}

static TF_Tensor *unknown_tensor(const int64_t *shape, int rank) {
  int64_t count = 1;
  for (int i = 0; i < rank; i++) count *= shape[i];
  TF_Tensor *tensor = TF_AllocateTensor(TF_FLOAT, shape, rank, count * sizeof(float));
  for (int64_t i = 0; i < count; i++) ((float *)TF_TensorData(tensor))[i] = NAN;
  return tensor;
}

static void print_tensor(const char *name, TF_Tensor *tensor) {
  TF_DataType type = TF_TensorType(tensor);
  printf("%s %s %d", name, type == TF_FLOAT ? "float32" : type == TF_INT32 ? "int32" : "bool",
         TF_NumDims(tensor));
  int64_t count = 1;
  for (int i = 0; i < TF_NumDims(tensor); i++) {
    printf(" %lld", (long long)TF_Dim(tensor, i));
    count *= TF_Dim(tensor, i);
  }
  const void *data = TF_TensorData(tensor);
  for (int64_t i = 0; i < count; i++) {
    if (type == TF_FLOAT) printf(" %.9g", ((const float *)data)[i]);
    else if (type == TF_INT32) printf(" %d", ((const int32_t *)data)[i]);
    else if (type == TF_BOOL) printf(" %d", ((const uint8_t *)data)[i]);
    else fail(name, "a type that no output has");
  }
  printf("\n");
}

int main(int argc, char **argv) {
  if (argc < 4) fail("usage", "serve MODEL SIGNATURE FILE...");
  char **files = argv + 3;
  int count = argc - 3;
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_Buffer *meta = TF_NewBuffer();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, meta, status);
  check(status, argv[1]);

  static Entry inputs[MOST], outputs[MOST];
  int n_inputs = 0, n_outputs = 0;
  Message message = {meta->data, (const uint8_t *)meta->data + meta->length};
  read_signature(message, argv[2], inputs, &n_inputs, outputs, &n_outputs);

  TF_Output fed[MOST], fetched[MOST];
  TF_Tensor *given[MOST], *found[MOST] = {NULL};
  for (int i = 0; i < n_inputs; i++) {
    int64_t box[] = {count, 4}, landmarks[] = {count, 5, 2};
    fed[i] = place(graph, inputs[i].tensor);
    if (!strcmp(inputs[i].key, "image_bytes")) given[i] = files_tensor(files, count);
    else if (!strcmp(inputs[i].key, "pixels")) given[i] = pixels_tensor(files, count);
    else if (!strcmp(inputs[i].key, "box")) given[i] = unknown_tensor(box, 2);
    else if (!strcmp(inputs[i].key, "landmarks")) given[i] = unknown_tensor(landmarks, 3);
    else fail(inputs[i].key, "an input that this program does not know");
  }
  for (int i = 0; i < n_outputs; i++) fetched[i] = place(graph, outputs[i].tensor);
  TF_SessionRun(session, NULL, fed, given, n_inputs, fetched, found, n_outputs, NULL, 0, NULL,
                status);
  check(status, argv[2]);
  for (int i = 0; i < n_outputs; i++) print_tensor(outputs[i].key, found[i]);

  TF_CloseSession(session, status);
  check(status, "closing");
  return 0;
}
