using System.Globalization;
using Native.Server.Tenancy;
using Native.Tools;

namespace Native.Tests.Tools;

public sealed class TenantsCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("native-tenants-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task Check_TellsWhatEachTenantMayHave_OrEveryMistake()
    {
        string file = Path.Combine(_folder, "tenants.yml");
        File.WriteAllText(file, TenantFile.Example);
        (int exit, string output, string error) = await Run("tenants", "check", file);
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Equal(
            [
                "acme: weight 2; 600 requests a minute; 200000 tokens a minute; API keys: 1",
                "nightly: weight 0.5; any number of requests; any number of tokens; API keys: 0",
            ],
            output.Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries));
        File.WriteAllText(file, TenantFile.Example.Replace("weight", "wait"));
        (exit, output, error) = await Run("tenants", "check", file);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        string[] mistakes = error.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(2, mistakes.Length);
        Assert.StartsWith($"native: {file}, line 4, column 5: 'wait' is no key here", mistakes[0]);
        (exit, _, error) = await Run("tenants", "check", file + ".none");
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("can't be read", error);
        Assert.Equal(Cli.Misused, (await Run("tenants", "check")).Exit);
    }

    [Fact]
    public async Task Help_ShowsAFile()
    {
        (int exit, string output, _) = await Run("tenants", "check", "--help");
        Assert.Equal(Cli.Success, exit);
        Assert.Contains("api_keys: [sk-acme-1]", output);
        Assert.Contains("-- tenants check tenants.yml", output);
        Assert.Contains("-- tenants check tenants.yml", (await Run("tenants", "--help")).Output);
        Assert.Contains("Checks tenants.", (await Run("--help")).Output);
    }

    private static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        int exit = await Cli.RunAsync(command, terminal);
        return (exit, output.ToString(), error.ToString());
    }
}
