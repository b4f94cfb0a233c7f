using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Grpc.Core;
using Native.V1;

namespace Native.Tests.Server;

/// <summary>Clients that never read, send half a request, or take every request back at once: others are served as
/// before, and every block comes back.</summary>
public sealed class BadClientTests
{
    private const string Completion = "/v1/completions";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("""{"prompt":"A","max_tokens":90000,"n":16,"stream":true}""")]
    [InlineData("""{"prompt":"A","max_tokens":4000,"n":16,"logprobs":5}""")]
    public async Task AClientThatNeverReads_IsHungUpOn_AndDelaysNobody(string body)
    {
        bool stream = body.Contains("stream", StringComparison.Ordinal);
        ScriptedRunner runner = new(blocks: 400_000, maxModelLength: 100_000) { StepTime = TimeSpan.FromMilliseconds(stream ? 1 : 0) };
        await using RunningServer server = await RunningServer.StartAsync(new() { ReaderPatience = TimeSpan.FromSeconds(1) }, runner);
        string before = Text(await server.Ask(Completion, """{"prompt":"w"}"""));
        long steps = server.Engine.Metrics.Steps;

        using Socket client = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { ReceiveBufferSize = 4096 };
        await client.ConnectAsync(server.Server.HttpAddress.Host, server.Server.HttpAddress.Port, Token);
        await client.SendAsync(Post(body), Token);
        // Steps only grow: an answer that nothing slows is over before anybody looks whether it runs.
        await RunningServer.Until(() => server.Engine.Metrics.Steps > steps, "it is computed");
        Assert.Equal(before, Text(await server.Ask(Completion, """{"prompt":"w"}""")));

        // The stream is endless: its blocks come back because the server hangs up. The whole answer was computed before
        // anybody had to read.
        await server.AllBlocksFree();
        await server.MetricsWith(stream ? "native_requests_total{outcome=\"cancelled\"} 1" : "native_requests_total{outcome=\"length\"} 1");
        // Its id is free once the server has given it up; only then it reads, or it would be served.
        await RunningServer.UntilAsync(async () =>
        {
            // A header's id may repeat; a message's may not.
            GenerateRequest named = new() { Text = "w", RequestId = "unread" };
            using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(named, cancellationToken: Token);
            try
            {
                while (await call.ResponseStream.MoveNext(Token)) { }
                return true;
            }
            catch (RpcException e) when (e.StatusCode == StatusCode.AlreadyExists)
            {
                return false;
            }
        }, "the request is given up");
        string got = await UntilHungUpOn(client);
        Assert.StartsWith("HTTP/1.1 200 OK", got, StringComparison.Ordinal);
        Assert.False(got.EndsWith('}') || got.EndsWith("[DONE]\n\n", StringComparison.Ordinal), "half an answer must not look whole");
        Assert.Equal(before, Text(await server.Ask(Completion, """{"prompt":"w"}""")));
    }

    [Fact]
    public async Task ACallThatNobodyReads_IsCancelled_AndDelaysNobodyOnItsConnection()
    {
        ScriptedRunner runner = new(blocks: 400_000, maxModelLength: 100_000) { StepTime = TimeSpan.FromMilliseconds(1) };
        await using RunningServer server = await RunningServer.StartAsync(new() { ReaderPatience = TimeSpan.FromSeconds(1) }, runner);
        // Flow control stops the stream where HTTP/2's first window ends; other calls share its connection.
        using AsyncServerStreamingCall<GenerateResponse> unread = server.Inference.Generate(new GenerateRequest { Text = "A", Sampling = new SamplingParams { MaxTokens = 90_000, N = 16 } }, cancellationToken: Token);
        await RunningServer.Until(() => server.Engine.Metrics.Running > 0, "it is computed");
        Assert.Equal(3, await Count(server, "w"));
        await server.AllBlocksFree();
        await server.MetricsWith("native_requests_total{outcome=\"cancelled\"} 1");
        RpcException e = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (await unread.ResponseStream.MoveNext(Token)) { }
        });
        Assert.NotEqual(StatusCode.OK, e.StatusCode);
        Assert.Equal(3, await Count(server, "w"));
    }

    [Fact]
    public async Task HalfARequest_IsGivenUp_AndHoldsNoBlock()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        string[] halves =
        [
            "POST /v1/comp",
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n",
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"pro",
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pr",
        ];
        Task<string>[] answers = [.. halves.Select(async half =>
        {
            using TcpClient client = new();
            await client.ConnectAsync(server.Server.HttpAddress.Host, server.Server.HttpAddress.Port, Token);
            await client.GetStream().WriteAsync(Encoding.ASCII.GetBytes(half), Token);
            return await new StreamReader(client.GetStream()).ReadToEndAsync(Token); // to the end: the server closes
        })];
        Task<string> call = HalfACall(server);
        await server.Ask(Completion, """{"prompt":"y"}""");
        Assert.All(await Task.WhenAll(answers), answer => Assert.StartsWith("HTTP/1.1 408 ", answer, StringComparison.Ordinal));
        Assert.Contains("\"code\":\"request_timeout\"", await answers[^1], StringComparison.Ordinal);
        Assert.Equal("closed", await call);
        await server.AllBlocksFree();
        await server.Ask(Completion, """{"prompt":"y"}""");
    }

    [Fact]
    public async Task CallsThatAreResetAtOnce_LeaveEveryBlockFree_AndTheServerAnswering()
    {
        ScriptedRunner runner = new(blocks: 40_000, maxModelLength: 100_000) { StepTime = TimeSpan.FromMilliseconds(1) };
        await using RunningServer server = await RunningServer.StartAsync(new() { MaxQueued = 200 }, runner);
        string before = Text(await server.Ask(Completion, """{"prompt":"w"}"""));
        GenerateRequest request = new() { Text = "A", Sampling = new SamplingParams { MaxTokens = 90_000 } };

        // Some run and some wait when they are taken back.
        using (RawHttp2 slow = await RawHttp2.ConnectAsync(server))
        {
            for (int i = 0; i < 150; i++) await slow.SendAsync(slow.Call(request, reset: false));
            await RunningServer.Until(() => server.Engine.Metrics.Running + server.Engine.Queued >= 150, "they are taken");
            await slow.SendAsync(slow.ResetAll());
            await server.AllBlocksFree();
        }

        // Reset as fast as they are sent, on one connection after the other (CVE-2023-44487).
        long memory = 0;
        for (int round = 0; round < 3; round++)
        {
            using RawHttp2 rapid = await RawHttp2.ConnectAsync(server);
            int sent = 0;
            while (sent < 5000 && await rapid.SendAsync(rapid.Call(request, reset: true))) sent++;
            // Calls taken back hold their places until the engine looks at them, so the queue may still be full; who is
            // turned away asks again.
            await RunningServer.UntilAsync(async () =>
            {
                using HttpResponseMessage response = await server.Post(Completion, """{"prompt":"w"}""");
                if (response.StatusCode == HttpStatusCode.TooManyRequests) return false;
                Assert.Equal(HttpStatusCode.OK, response.StatusCode);
                Assert.Equal(before, Text(JsonSerializer.Deserialize<JsonElement>(await response.Content.ReadAsStringAsync(Token))));
                return true;
            }, "the queue has a place again");
            Assert.True(sent > 100, $"{sent}");
            rapid.Dispose();
            await server.AllBlocksFree();
            if (round == 0) memory = GC.GetTotalMemory(forceFullCollection: true);
        }
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - memory, long.MinValue, 64 << 20);
        Assert.Equal(before, Text(await server.Ask(Completion, """{"prompt":"w"}""")));
        Assert.Equal(3, await Count(server, "w"));
        Assert.Equal(0, server.Engine.Queued);
    }

    private static string Text(JsonElement answer) => answer.GetProperty("choices")[0].GetProperty("text").GetString()!;

    private static byte[] Post(string body) =>
        Encoding.ASCII.GetBytes($"POST {Completion} HTTP/1.1\r\nHost: x\r\nx-request-id: unread\r\nContent-Type: application/json\r\nContent-Length: {body.Length}\r\n\r\n{body}");

    private static async Task<int> Count(RunningServer server, string text)
    {
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(new GenerateRequest { Text = text, Sampling = new SamplingParams { MaxTokens = 3 } }, cancellationToken: Token);
        int tokens = 0;
        await foreach (GenerateResponse e in call.ResponseStream.ReadAllAsync(Token))
            if (e.Token is not null) tokens++;
        return tokens;
    }

    /// <summary>Takes what is on the way, until there is no more to come.</summary>
    private static async Task<string> UntilHungUpOn(Socket client)
    {
        byte[] buffer = new byte[1 << 16];
        StringBuilder all = new();
        try
        {
            while (await client.ReceiveAsync(buffer, Token) is > 0 and int count) all.Append(Encoding.ASCII.GetString(buffer, 0, count));
        }
        catch (SocketException)
        {
            // Reset: as good an end.
        }
        return all.ToString();
    }

    /// <summary>A call whose message never comes whole.</summary>
    private static async Task<string> HalfACall(RunningServer server)
    {
        using RawHttp2 half = await RawHttp2.ConnectAsync(server);
        await half.SendAsync([.. half.Headers(), .. RawHttp2.Frame(type: 0, flags: 0, half.Stream, [0, 0, 0, 0, 100, 1, 2])]);
        return await half.ClosedAsync();
    }

    /// <summary>As much of HTTP/2 as a client needs that does not care for answers.</summary>
    private sealed class RawHttp2(Socket socket) : IDisposable
    {
        private readonly List<int> _streams = [];

        /// <summary>The stream begun last.</summary>
        public int Stream => _streams[^1];

        public static async Task<RawHttp2> ConnectAsync(RunningServer server)
        {
            Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            await socket.ConnectAsync(server.Server.GrpcAddress.Host, server.Server.GrpcAddress.Port, Token);
            RawHttp2 connection = new(socket);
            await connection.SendAsync([.. "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"u8, .. Frame(type: 4, flags: 0, stream: 0, [])]);
            return connection;
        }

        public static byte[] Frame(byte type, byte flags, int stream, ReadOnlySpan<byte> payload)
        {
            byte[] frame = new byte[9 + payload.Length];
            BinaryPrimitives.WriteInt32BigEndian(frame, payload.Length << 8);
            (frame[3], frame[4]) = (type, flags);
            BinaryPrimitives.WriteInt32BigEndian(frame.AsSpan(5), stream);
            payload.CopyTo(frame.AsSpan(9));
            return frame;
        }

        /// <summary>HEADERS of a new call of Generate.</summary>
        public byte[] Headers()
        {
            _streams.Add(2 * _streams.Count + 1);
            byte[] block = [0x83, 0x86, 0x04, .. Literal("/native.v1.Inference/Generate"), 0x01, .. Literal("x"), 0x0f, 0x10, .. Literal("application/grpc"), 0x00, .. Literal("te"), .. Literal("trailers")]; // HPACK, RFC 7541
            return Frame(type: 1, flags: 4, Stream, block);

            static byte[] Literal(string text) => [(byte)text.Length, .. Encoding.ASCII.GetBytes(text)];
        }

        /// <summary>A whole call, taken back in the same breath or not.</summary>
        public byte[] Call(GenerateRequest request, bool reset)
        {
            byte[] headers = Headers(), message = Google.Protobuf.MessageExtensions.ToByteArray(request);
            byte[] data = Frame(type: 0, flags: 1, Stream, [0, 0, 0, 0, (byte)message.Length, .. message]);
            return [.. headers, .. data, .. reset ? Reset(Stream) : []];
        }

        public byte[] ResetAll() => [.. _streams.SelectMany(Reset)];

        /// <summary>False where the server has hung up.</summary>
        public async Task<bool> SendAsync(byte[] bytes)
        {
            try
            {
                await socket.SendAsync(bytes, Token);
                return true;
            }
            catch (SocketException)
            {
                return false;
            }
        }

        public async Task<string> ClosedAsync()
        {
            await UntilHungUpOn(socket);
            return "closed";
        }

        public void Dispose() => socket.Dispose();

        private static byte[] Reset(int stream) => Frame(type: 3, flags: 0, stream, [0, 0, 0, 8]); // CANCEL
    }
}
