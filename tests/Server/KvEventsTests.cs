using Grpc.Core;
using Native.V1;

namespace Native.Tests.Server;

/// <summary>Routers that follow the prefix cache over gRPC.</summary>
public sealed class KvEventsTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task ARouter_SeesWhatIsCached_ThenWhatChanges_AndGoesOnWhereItWas()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { CacheEvents = true });
        await Generate(server, "abcdefgh");
        using AsyncServerStreamingCall<KvEventBatch> first = Subscribe(server, null);
        KvEventBatch snapshot = await Next(first);
        Assert.True(snapshot.IsSnapshot);
        Assert.NotNull(snapshot.Events[0].AllBlocksCleared);
        BlockStored[] stored = [.. snapshot.Events.Skip(1).Select(e => e.BlockStored)];
        Assert.Equal(2, stored.Length); // a begin token and eight letters, the ninth in a block that is not full
        Assert.Equal([256, 'a', 'b', 'c'], Assert.Single(stored, block => !block.HasParentBlockHash).TokenIds);
        BlockStored second = Assert.Single(stored, block => block.HasParentBlockHash);
        Assert.Equal(['d', 'e', 'f', 'g'], second.TokenIds);
        Assert.Equal(4u, second.BlockSize);
        Assert.Equal(stored.First(block => !block.HasParentBlockHash).BlockHashes[0], second.ParentBlockHash);
        KvEventBatch ended = await Next(first);
        Assert.Equal((false, 0), (ended.IsSnapshot, ended.Events.Count));

        await Generate(server, "secret12", salt: "mine");
        await Generate(server, "zyxw");
        KvEventBatch news = await Next(first);
        Assert.Equal(snapshot.SequenceNumber, news.SequenceNumber);
        Assert.Equal([256, 'z', 'y', 'x'], Assert.Single(news.Events).BlockStored.TokenIds);

        using AsyncServerStreamingCall<KvEventBatch> again = Subscribe(server, snapshot.SequenceNumber);
        KvEventBatch same = await Next(again);
        Assert.False(same.IsSnapshot);
        Assert.Equal(news.Events, same.Events);
        using AsyncServerStreamingCall<KvEventBatch> old = Subscribe(server, 3); // of a server before this one
        KvEventBatch anew = await Next(old);
        Assert.Equal((true, 0ul), (anew.IsSnapshot, anew.Lost)); // nobody knows what that one lost
        Assert.Equal(4, anew.Events.Count);
    }

    [Fact]
    public async Task WithoutTheOption_ItIsUnimplemented_AndWithoutTheKey_Unauthenticated()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using AsyncServerStreamingCall<KvEventBatch> none = Subscribe(server, null);
        RpcException unimplemented = await Assert.ThrowsAsync<RpcException>(() => Next(none));
        Assert.Equal(StatusCode.Unimplemented, unimplemented.StatusCode);
        Assert.Contains("--enable-kv-cache-events", unimplemented.Status.Detail);
        await using RunningServer locked =
            await RunningServer.StartAsync(new() { CacheEvents = true, ApiKey = "sesame" });
        using AsyncServerStreamingCall<KvEventBatch> stranger = Subscribe(locked, null);
        RpcException refused = await Assert.ThrowsAsync<RpcException>(() => Next(stranger));
        Assert.Equal(StatusCode.Unauthenticated, refused.StatusCode);
    }

    [Fact]
    public async Task ABrokenDevice_ClearsTheCache_AndEndsTheCall()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { CacheEvents = true });
        await Generate(server, "abcdefgh");
        using AsyncServerStreamingCall<KvEventBatch> call = Subscribe(server, null);
        Assert.Equal(3, (await Next(call)).Events.Count);
        server.Runner.Fault = new InvalidOperationException("the device is lost");
        RpcException lost = await Assert.ThrowsAsync<RpcException>(() => Generate(server, "abcdefgh!"));
        Assert.Equal((StatusCode.Unavailable, "What computes is broken: the device is lost"),
            (lost.StatusCode, lost.Status.Detail));
        KvEventBatch? last = null;
        RpcException over = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (true) last = await Next(call);
        });
        Assert.Equal(StatusCode.Unavailable, over.StatusCode);
        Assert.NotNull(Assert.Single(last!.Events).AllBlocksCleared);
    }

    [Fact]
    public async Task TheServersEnd_EndsTheCall_AndTooManyCallsAreRefused()
    {
        RunningServer server = await RunningServer.StartAsync(new() { CacheEvents = true });
        List<AsyncServerStreamingCall<KvEventBatch>> calls = [];
        for (int i = 0; i < 16; i++)
        {
            calls.Add(Subscribe(server, null));
            await Next(calls[i]);
        }
        using AsyncServerStreamingCall<KvEventBatch> more = Subscribe(server, null);
        RpcException refused = await Assert.ThrowsAsync<RpcException>(() => Next(more));
        Assert.Equal(StatusCode.ResourceExhausted, refused.StatusCode);
        calls[0].Dispose();
        await RunningServer.UntilAsync(async () =>
        {
            using AsyncServerStreamingCall<KvEventBatch> next = Subscribe(server, null);
            try
            {
                await Next(next);
                return true;
            }
            catch (RpcException)
            {
                return false;
            }
        }, "a place is free again");
        Task ends = server.Server.DisposeAsync().AsTask();
        RpcException over = await Assert.ThrowsAsync<RpcException>(async () =>
        {
            while (true) await Next(calls[1]);
        });
        Assert.Equal(StatusCode.Unavailable, over.StatusCode);
        await ends;
        await server.DisposeAsync();
    }

    private static AsyncServerStreamingCall<KvEventBatch> Subscribe(RunningServer server, ulong? start)
    {
        SubscribeKvEventsRequest request = new();
        if (start is { } number) request.StartSequenceNumber = number;
        return server.Inference.SubscribeKvEvents(request, cancellationToken: Token);
    }

    private static async Task<KvEventBatch> Next(AsyncServerStreamingCall<KvEventBatch> call)
    {
        Assert.True(await call.ResponseStream.MoveNext(Token));
        return call.ResponseStream.Current;
    }

    private static async Task Generate(RunningServer server, string prompt, string salt = "")
    {
        GenerateRequest request = new() { Text = prompt, CacheSalt = salt, Sampling = new() { MaxTokens = 1 } };
        using AsyncServerStreamingCall<GenerateResponse> call =
            server.Inference.Generate(request, cancellationToken: Token);
        while (await call.ResponseStream.MoveNext(Token))
        {
        }
    }
}
