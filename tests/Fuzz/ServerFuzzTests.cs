using System.Buffers.Binary;
using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Health.V1;
using Native.Kernels.Models;
using Native.Scheduling;
using Native.Server;
using Native.Server.Serving;
using Native.Tests.Server;
using Native.V1;
using ReflectionRequest = Grpc.Reflection.V1Alpha.ServerReflectionRequest;

namespace Native.Tests.Fuzz;

/// <summary>Alone, because what a server allocates is counted for the whole process.</summary>
[CollectionDefinition(nameof(ServerFuzzTests), DisableParallelization = true)]
public sealed class ServerFuzzCollection;

/// <summary>What a network brings to a running server with a real model.</summary>
[Collection(nameof(ServerFuzzTests))]
public sealed class ServerFuzzTests
{
    /// <summary>Finds name a method by its place here.</summary>
    private static readonly (string Path, byte[][] Seeds)[] Methods =
    [
        ("/native.v1.Inference/Generate",
        [
            Message(new GenerateRequest { Text = "Once upon a time", Sampling = new() { MaxTokens = 3, Temperature = 0.7f, TopK = 5, TopP = 0.9f, MinP = 0.01f, Seed = 7, N = 2, Logprobs = 2, PromptLogprobs = 1, Stop = { "end", "\n" }, StopTokenIds = { 5 }, LogitBias = { [7] = -3 } } }),
            Message(new GenerateRequest { TokenIds = new() { Ids = { 1, 20, 30 } }, RequestId = "r", Sampling = new() { MaxTokens = 2, MinTokens = 1, IgnoreEos = true, RepetitionPenalty = 1.1f, PresencePenalty = 0.5f, FrequencyPenalty = -0.5f } }),
        ]),
        ("/native.v1.Inference/Chat",
        [
            Message(new ChatRequest { Messages = { new ChatMessage { Role = "system", Content = "Be kind." }, new ChatMessage { Role = "user", Content = "Hi" } }, AddGenerationPrompt = true, Sampling = new() { MaxTokens = 2 },
                TemplateArgumentsJson = """{"enable_thinking":false}""", ToolsJson = """[{"type":"function","function":{"name":"f"}}]""" }),
        ]),
        ("/native.v1.Inference/Tokenize", [Message(new TokenizeRequest { Text = "Hello <|im_end|> é", AddSpecial = true, ParseSpecial = true })]),
        ("/native.v1.Inference/Detokenize", [Message(new DetokenizeRequest { Ids = { 1, 2, 3, 200 } })]),
        ("/native.v1.Inference/ListModels", [Message(new ListModelsRequest()), [0x0A, 1, 0x61]]),
        ("/native.v1.Inference/GetServerInfo", [Message(new GetServerInfoRequest()), [0x08, 1]]),
        ("/grpc.health.v1.Health/Check", [Message(new HealthCheckRequest { Service = "native.v1.Inference" })]),
        ("/grpc.health.v1.Health/List", [Message(new HealthListRequest()), [0x08, 1]]),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", [Message(new ReflectionRequest { FileContainingSymbol = "native.v1.Inference", Host = "h" }), Message(new ReflectionRequest { ListServices = "*" })]),
    ];

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task HttpBody_IsAnsweredOrRefused()
    {
        await using RunningServer server = await StartAsync();
        string before = await Complete(server);
        var bodies = new Mutator(InputKind.Text,
            [
                Seeds.Utf8("""{"model":"demo","prompt":"Once upon","max_tokens":3,"temperature":0.7,"top_p":0.9,"top_k":5,"min_p":0.05,"seed":7,"n":2,"logprobs":2,"echo":true,"stop":["x","\n"],"stream":false,"user":"u"}"""),
                Seeds.Utf8("""{"prompt":[[1,20,30],[5]],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"7":-100,"9":5.5},"stop_token_ids":[3],"ignore_eos":true,"min_tokens":1,"return_token_ids":true}"""),
                Seeds.Utf8("""{"prompt":["a","b"],"best_of":1,"suffix":null,"presence_penalty":0.5,"frequency_penalty":-0.5,"repetition_penalty":1.2,"max_tokens":2}"""),
                Seeds.Utf8("""{"messages":[{"role":"system","content":"Be kind."},{"role":"user","content":"Hi"}],"max_completion_tokens":2,"logprobs":true,"top_logprobs":2,"temperature":0,"response_format":{"type":"text"},"modalities":["text"]}"""),
                Seeds.Utf8("""{"messages":[{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"c","content":"7"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":"auto","chat_template_kwargs":{"enable_thinking":false},"max_tokens":2,"stream":true}"""),
                .. FuzzTarget.Finds("http"),
            ],
            "prompt", "messages", "role", "content", "\"stream\":true,", "\"n\":3,", "\"echo\":true,", "\"logprobs\":0,", "\"prompt_logprobs\":1,", "\"max_tokens\":0,", "\"guided_json\":{},", "\"suffix\":\"x\",", "\"<|im_end|>\"", "\"<s>\"", "tool_calls", "arguments", "chat_template_kwargs", "\"bos_token\":1,");
        await RunAsync(new FuzzTarget("http", bodies.Next, body =>
        {
            int taken = 0;
            foreach (string path in (string[])["/v1/completions", "/v1/chat/completions"]) taken += Post(server, path, body) ? 1 : 0;
            if (taken == 0) throw new InvalidDataException("refused by both");
        })
        {
            Refuses = e => e is InvalidDataException,
            AllocationBase = 16 << 20, // up to eight choices of 64 tokens, of which each may be an event with twenty alternatives; twice
            AllocationPerByte = 512,
            Allocated = static () => GC.GetTotalAllocatedBytes(precise: true),
            Inputs = 1500,
        });
        await server.AllBlocksFree();
        Assert.Equal(before, await Complete(server));
    }

    [Fact]
    public async Task GrpcMessage_IsAnsweredOrRefused()
    {
        await using RunningServer server = await StartAsync();
        string before = await Complete(server);
        Mutator[] messages = [.. Methods.Select(m => new Mutator(InputKind.Protobuf, m.Seeds, "demo", "native.v1.Inference", "[]", "{}", "[{\"a\":1}]", "{\"a\":\"\\ud800\"}", "\u00FF", "user", "tool", "<|im_end|>"))];
        using var client = new HttpClient { BaseAddress = server.Server.GrpcAddress, Timeout = TimeSpan.FromMinutes(2), DefaultRequestVersion = HttpVersion.Version20, DefaultVersionPolicy = HttpVersionPolicy.RequestVersionExact };
        // The first byte is the method, the second how the message is framed: in most cases well.
        await RunAsync(new FuzzTarget("grpc", random =>
        {
            int method = random.Next(Methods.Length);
            return [(byte)method, (byte)random.Next(40), .. messages[method].Next(random)];
        }, input =>
        {
            int method = input[0] % Methods.Length, framing = input[1];
            byte[] content = Framed(input[2..], framing);
            using var request = new HttpRequestMessage(HttpMethod.Post, Methods[method].Path) { Content = new ByteArrayContent(content), Version = HttpVersion.Version20, VersionPolicy = HttpVersionPolicy.RequestVersionExact };
            request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/grpc");
            request.Headers.TE.Add(new TransferCodingWithQualityHeaderValue("trailers"));
            using HttpResponseMessage response = client.SendAsync(request, Token).GetAwaiter().GetResult();
            Assert.Equal(HttpStatusCode.OK, response.StatusCode);
            string told = (response.TrailingHeaders.TryGetValues("grpc-status", out IEnumerable<string>? values) || response.Headers.TryGetValues("grpc-status", out values) ? values.Single() : "none");
            string message = response.TrailingHeaders.TryGetValues("grpc-message", out values) || response.Headers.TryGetValues("grpc-message", out values) ? values.Single() : "";
            switch (Enum.Parse<StatusCode>(told))
            {
                case StatusCode.OK: return;
                case StatusCode.InvalidArgument or StatusCode.NotFound or StatusCode.Unimplemented or StatusCode.ResourceExhausted: break;
                // What gRPC says of a frame that is cut off, in a compression that nobody named, or one too many.
                case StatusCode.Internal when framing < 4 && !message.Contains("mistake", StringComparison.Ordinal): break;
                default: throw new InvalidOperationException($"{Methods[method].Path}: grpc-status {told}: {message}");
            }
            throw new InvalidDataException(message);
        })
        {
            Refuses = e => e is InvalidDataException,
            AllocationBase = 16 << 20,
            AllocationPerByte = 512,
            Allocated = static () => GC.GetTotalAllocatedBytes(precise: true),
            Inputs = 2500,
        });
        await server.AllBlocksFree();
        Assert.Equal(before, await Complete(server));
    }

    /// <summary>Whether the answer is one; a refusal must say why in JSON, and must not be the server's
    /// fault.</summary>
    private static bool Post(RunningServer server, string path, byte[] body)
    {
        using HttpResponseMessage response = server.Post(path, body).GetAwaiter().GetResult();
        byte[] answer = response.Content.ReadAsByteArrayAsync(Token).GetAwaiter().GetResult();
        string text = Encoding.UTF8.GetString(answer);
        if (response.StatusCode == HttpStatusCode.OK)
        {
            if (response.Content.Headers.ContentType?.MediaType == "text/event-stream") Assert.EndsWith("data: [DONE]\n\n", text);
            else Assert.True(JsonElement.Parse(text).GetProperty("choices").GetArrayLength() > 0);
            return true;
        }
        Assert.True(response.StatusCode is HttpStatusCode.BadRequest or HttpStatusCode.NotFound or HttpStatusCode.RequestEntityTooLarge or HttpStatusCode.TooManyRequests or HttpStatusCode.NotImplemented, $"{path}: {(int)response.StatusCode}: {text}");
        JsonElement error = JsonElement.Parse(text).GetProperty("error");
        Assert.NotEmpty(error.GetProperty("message").GetString()!);
        Assert.NotEmpty(error.GetProperty("type").GetString()!);
        return false;
    }

    private static byte[] Framed(byte[] message, int framing)
    {
        byte[] frame = [(byte)(framing == 1 ? 1 : 0), 0, 0, 0, 0, .. message];
        BinaryPrimitives.WriteInt32BigEndian(frame.AsSpan(1), framing == 2 ? message.Length + 1 + message.Length % 7 : message.Length);
        return framing switch
        {
            0 => message,
            3 => [.. frame, .. frame],
            _ => frame,
        };
    }

    private static async Task<RunningServer> StartAsync()
    {
        var options = new ServerOptions { MaxRunning = 8 };
        RunningServer server = await RunningServer.StartAsync(options, load: false);
        LoadedModel model = LoadedModel.Load(new ModelOptions { Path = Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf"), MaxModelLength = 64, MaxSequences = options.MaxRunning, Threads = 1 });
        server.Server.Host.Serve(
            new ServedModel("demo", model.Runner, model.Tokenizer, new(), server.Server.EngineOptions));
        return server;
    }

    private static async Task<string> Complete(RunningServer server) =>
        (await server.Ask("/v1/completions", """{"prompt":"Once upon a time","max_tokens":12,"temperature":0}""")).GetProperty("choices")[0].GetProperty("text").GetString()!;

    private static byte[] Message(IMessage message) => message.ToByteArray();

    private static Task RunAsync(FuzzTarget target) => Task.Run(target.Run, Token);
}
